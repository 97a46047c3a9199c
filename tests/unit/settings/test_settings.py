from __future__ import annotations

import math
from pathlib import Path

import pytest

from donabe.errors import SettingsError
from donabe.settings import Settings, declared_settings, default_config_path, load_settings


def load(tmp_path: Path, flags: dict[str, object] | None = None, **environ: str) -> Settings:
    return load_settings(flags, environ={"DONABE_HOME": str(tmp_path), **environ})


def write_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")


def test_nothing_set_gives_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.host, settings.port, settings.keep_alive_s) == ("127.0.0.1", 11434, 300.0)
    assert settings.models_dir == tmp_path / "models"
    assert not settings.is_set("num_parallel")


def test_layers_win_in_order(tmp_path: Path) -> None:
    write_config(tmp_path, "max_queue = 1\nnum_parallel = 1\nstrict = true")
    settings = load(tmp_path, {"max_queue": "3"}, DONABE_MAX_QUEUE="2", DONABE_NUM_PARALLEL="2")
    assert (settings.max_queue, settings.num_parallel, settings.strict) == (3, 2, True)
    assert str(settings.source("max_queue")) == "flag --max-queue"
    assert str(settings.source("num_parallel")) == "environment DONABE_NUM_PARALLEL"
    assert str(settings.source("strict")) == f"config file {tmp_path / 'config.toml'}"
    assert str(settings.source("max_body")) == "default"


def test_own_variable_beats_its_twin(tmp_path: Path) -> None:
    settings = load(tmp_path, OLLAMA_MODELS="/a", DONABE_MODELS="/b", OLLAMA_KEEP_ALIVE="-1")
    assert settings.models_dir == Path("/b")
    assert settings.keep_alive_s == math.inf
    assert settings.source("keep_alive").name == "OLLAMA_KEEP_ALIVE"


def test_empty_and_quoted_variables(tmp_path: Path) -> None:
    settings = load(tmp_path, DONABE_MAX_QUEUE=" ", OLLAMA_MAX_QUEUE=' "7" ')
    assert settings.max_queue == 7


def test_a_chosen_value_equal_to_the_default_counts_as_set(tmp_path: Path) -> None:
    assert load(tmp_path, DONABE_MAX_QUEUE="512").is_set("max_queue")


def test_sizes_that_may_be_automatic(tmp_path: Path) -> None:
    assert load(tmp_path).prefix_cache_ram_bytes is None
    settings = load(tmp_path, DONABE_PREFIX_CACHE_RAM="1GiB", DONABE_PREFIX_CACHE_POOL="auto")
    assert (settings.prefix_cache_ram_bytes, settings.prefix_cache_pool_bytes) == (1 << 30, None)


def test_port_replaces_the_port_of_host(tmp_path: Path) -> None:
    assert load(tmp_path, {"port": "99"}, OLLAMA_HOST="http://box:80/x").address.url == "http://box:99/x"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("port", "65536", "0 to 65535"),
        ("port", "1e3", "whole number"),
        ("host", "ftp://x", "http://"),
        ("keep_alive", "5 parsecs", "duration"),
        ("num_parallel", "-1", "1 to 256"),
        ("num_parallel", "257", "1 to 256"),
        ("strict", "perhaps", "on, off"),
        ("kv_cache_type", "q9", "q8_0"),
        ("debug", "3", "0 to 2"),
        ("max_body", "lots", "512MB"),
        ("max_step_latency", "-1s", "negative"),
        ("prefix_cache_ram", "lots", "512MB"),
        ("prefix_cache_pool", "-1", "512MB"),
        ("log_level", "loud", "info"),
    ],
)
def test_bad_value_names_setting_and_source(tmp_path: Path, name: str, value: str, reason: str) -> None:
    variable = f"DONABE_{name.upper()}"
    with pytest.raises(SettingsError, match=reason) as caught:
        load(tmp_path, **{variable: value})
    assert (caught.value.setting, caught.value.source) == (name, f"environment {variable}")
    assert name in str(caught.value)
    assert variable in str(caught.value)


@pytest.mark.parametrize(
    "line", ['max_queue = "x"', "max_queue = true", "max_queue = 1.5", "origins = [1]", "host = 1"]
)
def test_bad_type_in_config_file_names_the_file(tmp_path: Path, line: str) -> None:
    write_config(tmp_path, line)
    with pytest.raises(SettingsError, match=r"config\.toml"):
        load(tmp_path)


def test_unknown_key_in_config_file_suggests(tmp_path: Path) -> None:
    write_config(tmp_path, "max_que = 1")
    with pytest.raises(SettingsError, match="unknown setting max_que") as caught:
        load(tmp_path)
    assert caught.value.hint == "did you mean max_queue?"


def test_broken_config_file_is_an_error(tmp_path: Path) -> None:
    write_config(tmp_path, "max_queue =")
    with pytest.raises(SettingsError, match=r"config\.toml"):
        load(tmp_path)


def test_named_config_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path, DONABE_CONFIG=str(tmp_path / "absent.toml"))


def test_config_path_follows_home() -> None:
    assert default_config_path({"DONABE_HOME": "/h"}) == Path("/h/config.toml")
    assert default_config_path({"DONABE_CONFIG": "/c.toml", "DONABE_HOME": "/h"}) == Path("/c.toml")


def test_secrets_are_hidden_from_text(tmp_path: Path) -> None:
    settings = load(tmp_path, DONABE_API_KEY="sk-abc", DONABE_API_KEYS="sk-def,sk-ghi")
    assert settings.api_keys == ("sk-def", "sk-ghi")
    shown = repr(settings) + repr(list(settings.describe()))
    assert "sk-" not in shown


def test_debug_lowers_the_log_level(tmp_path: Path) -> None:
    assert load(tmp_path, DONABE_LOG_LEVEL="error").logging_level == 40
    assert load(tmp_path, DONABE_LOG_LEVEL="error", OLLAMA_DEBUG="true").logging_level == 10


def test_hugging_face_cache_follows_its_own_variables(tmp_path: Path) -> None:
    assert load(tmp_path, HF_HOME="/hf").hf_cache == Path("/hf/hub")
    assert load(tmp_path, HF_HOME="/hf", HF_HUB_CACHE="/cache").hf_cache == Path("/cache")


def test_extra_stores_can_be_switched_off(tmp_path: Path) -> None:
    assert load(tmp_path, DONABE_EXTRA_STORES="none").extra_stores == ()


def test_every_default_passes_its_own_kind(tmp_path: Path) -> None:
    settings = load(tmp_path)
    for setting in declared_settings():
        value = getattr(settings, setting.attribute)
        if value is not None and value != "":
            assert setting.kind(value) == value, setting.name
