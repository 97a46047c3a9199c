"""A certificate authority of the test, and a certificate of it for the loopback addresses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificate:
    """PEM files."""

    cert: Path
    key: Path
    ca: Path


def make_certificate(folder: Path, name: str = "server", *hosts: str) -> Certificate:
    authority = trustme.CA()
    leaf = authority.issue_cert(*(hosts or ("127.0.0.1", "::1", "localhost")))
    files = Certificate(folder / f"{name}.pem", folder / f"{name}-key.pem", folder / f"{name}-ca.pem")
    files.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    files.key.write_bytes(leaf.private_key_pem.bytes())
    files.ca.write_bytes(authority.cert_pem.bytes())
    return files
