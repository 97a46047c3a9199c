"""A registry's side of TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.fakes.certificates import make_certificate


def make_authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """(the authority's certificate as a file, a server's context with a certificate of it)."""
    files = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    return files.ca, context
