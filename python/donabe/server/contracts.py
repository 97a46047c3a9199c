"""The settings the server reads, as a Protocol: `donabe.settings.Settings` provides them, tests pass a small fake."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol


class ServerSettings(Protocol):
    """Read-only. 0 means automatic where a comment says so; durations are seconds, `math.inf` is forever."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def tls_cert(self) -> Path | None: ...

    @property
    def tls_key(self) -> Path | None: ...

    @property
    def models_dir(self) -> Path: ...

    @property
    def origins(self) -> tuple[str, ...]:
        """Extra CORS origins; `*` allows all."""
        ...

    @property
    def keep_alive_s(self) -> float: ...

    @property
    def load_timeout_s(self) -> float: ...

    @property
    def shutdown_timeout_s(self) -> float: ...

    @property
    def spare_runner(self) -> bool: ...

    @property
    def max_loaded_models(self) -> int:
        """0 = automatic (3 per GPU, 3 without)."""
        ...

    @property
    def max_queue(self) -> int: ...

    @property
    def num_parallel(self) -> int:
        """Sequences that may run at once in one runner; 0 = automatic."""
        ...

    @property
    def context_length(self) -> int:
        """Default context of a model; 0 = automatic."""
        ...

    @property
    def strict(self) -> bool:
        """Refuse unknown request fields instead of reporting them."""
        ...

    @property
    def max_body_bytes(self) -> int: ...

    @property
    def flash_attention(self) -> bool | None: ...

    @property
    def kv_cache_type(self) -> str | None: ...

    @property
    def backend(self) -> str | None: ...

    @property
    def devices(self) -> tuple[str, ...]: ...

    @property
    def gpu_layers(self) -> int | None: ...

    @property
    def cpu_moe(self) -> int | None: ...

    @property
    def main_gpu(self) -> int | None: ...

    @property
    def tensor_split(self) -> tuple[float, ...]: ...

    @property
    def rpc(self) -> tuple[str, ...]: ...

    @property
    def max_step_latency_s(self) -> float | None: ...

    @property
    def stream_interval_s(self) -> float: ...

    @property
    def auto_tune(self) -> Literal["off", "cached", "idle", "on"]: ...

    @property
    def logging_level(self) -> int:
        """Of the standard `logging` module."""
        ...

    @property
    def log_format(self) -> Literal["text", "json"]: ...

    @property
    def home(self) -> Path:
        """Folder of donabe's own files; the stored API keys are there."""
        ...

    @property
    def api_keys(self) -> tuple[str, ...]: ...

    @property
    def require_api_key(self) -> bool | None: ...

    @property
    def insecure_no_auth(self) -> bool: ...

    @property
    def requests_per_minute(self) -> int: ...

    @property
    def tokens_per_minute(self) -> int: ...

    @property
    def max_concurrent(self) -> int: ...

    @property
    def offline(self) -> bool:
        """Never reach out to model sources."""
        ...
