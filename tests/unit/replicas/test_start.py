from __future__ import annotations

import importlib.util
import logging
import socket

import pytest

from donabe.errors import SettingsError
from donabe.replicas.options import ReplicaOptions
from donabe.replicas.replica import ReplicaStartFailure, enclosed_failure
from donabe.replicas.start import check_address, connect_replicas, prepare_environment
from donabe.runner.failures import error_from, failed_from


def test_own_ray_is_closed_to_others_and_reports_nothing() -> None:
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    prepare_environment(first, is_own=True)
    prepare_environment(second, is_own=True)
    assert first["RAY_USAGE_STATS_ENABLED"] == "0"
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) >= 32
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_token_of_the_user_stays(name: str) -> None:
    environ = {name: "mine"}
    prepare_environment(environ, is_own=True)
    assert environ == {name: "mine", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


def test_open_ray_is_said(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"RAY_AUTH_MODE": "disabled"}
    with caplog.at_level(logging.WARNING):
        prepare_environment(environ, is_own=True)
    assert "everybody who can reach this machine" in caplog.text
    assert "RAY_AUTH_TOKEN" not in environ


def test_cluster_of_others_keeps_its_own_rules() -> None:
    environ: dict[str, str] = {}
    prepare_environment(environ, is_own=False)
    assert environ == {"RAY_USAGE_STATS_ENABLED": "0"}


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError) as caught:
        connect_replicas(ReplicaOptions(n_replicas=2))
    assert caught.value.hint == "pip install 'donabe[ray]'"


def test_address_where_nothing_listens_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_address(address)
    with pytest.raises(SettingsError, match=f"no Ray cluster answers at {address}"):
        check_address(address)


@pytest.mark.parametrize("address", ["", "auto", "local", "ray://127.0.0.1:1"])
def test_other_addresses_are_left_to_ray(address: str) -> None:
    check_address(address)


def test_error_survives_in_the_text_of_another() -> None:
    error = SettingsError("bad value\nin two lines", setting="replicas", hint="change it")
    text = f"Traceback ...\nRayTaskError: {ReplicaStartFailure(failed_from(error))}\nand more"
    failed = enclosed_failure(text)
    assert failed is not None
    back = error_from(failed)
    assert isinstance(back, SettingsError)
    assert (back.message, back.hint, back.setting) == (error.message, error.hint, error.setting)


def test_text_without_an_error_has_none() -> None:
    assert enclosed_failure("the deployment failed: [donabe-error:]") is None
