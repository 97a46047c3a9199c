"""Server settings for tests: every field has a harmless value."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FakeSettings:
    host: str = "127.0.0.1"
    port: int = 11434
    tls_cert: Path | None = None
    tls_key: Path | None = None
    models_dir: Path = Path("/nonexistent")
    origins: tuple[str, ...] = ()
    keep_alive_s: float = 300.0
    load_timeout_s: float = 300.0
    shutdown_timeout_s: float = 10.0
    spare_runner: bool = False
    max_loaded_models: int = 0
    max_queue: int = 512
    num_parallel: int = 0
    context_length: int = 0
    strict: bool = False
    max_body_bytes: int = 10_000_000
    flash_attention: bool | None = None
    kv_cache_type: str | None = None
    backend: str | None = None
    devices: tuple[str, ...] = ()
    gpu_layers: int | None = None
    cpu_moe: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    rpc: tuple[str, ...] = ()
    max_step_latency_s: float | None = None
    stream_interval_s: float = 0.0
    auto_tune: Literal["off", "cached", "idle", "on"] = "cached"
    logging_level: int = logging.WARNING
    log_format: Literal["text", "json"] = "text"
    home: Path = Path("/nonexistent")
    api_keys: tuple[str, ...] = ()
    require_api_key: bool | None = None
    insecure_no_auth: bool = False
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0
    offline: bool = False
