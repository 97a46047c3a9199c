"""Finds paths of images and sounds in a prompt for multimodal models, and reads the files.

A path must start with `/`, `./`, `../`, `~/` (or a drive letter): a bare word such as `a.png` stays text.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from donabe.errors import InvalidRequestError

MAX_FILE_BYTES = 100 * 1024 * 1024
_PATH = re.compile(
    r"""(?P<quote>['"]?)(?P<path>(?<![\w./\\~])(?:[A-Za-z]:)?(?:~|\.{1,2})?[/\\](?:[^\n'"]*?)
        \.(?:jpe?g|png|webp|wav))\b(?P=quote)""",
    re.IGNORECASE | re.VERBOSE,
)


def extract_attachments(prompt: str) -> tuple[str, list[bytes]]:
    """Split a prompt into its text and the files it names.

    Raises:
        InvalidRequestError: A file is no image or sound, is too large or can't be read.
    """
    files: list[bytes] = []

    def take(match: re.Match[str]) -> str:
        path = Path(_unescaped(match["path"])).expanduser()
        if not path.is_file():
            return match[0]
        data = _read(path)
        files.append(data)
        kind = "audio" if data[8:12] == b"WAVE" else "image"
        sys.stderr.write(f"Added {kind} '{match['path']}'\n")
        return ""

    return _PATH.sub(take, prompt).strip(), files


def _unescaped(text: str) -> str:
    return re.sub(r"\\([ ()&\\'\"\[\]{}$`!*?;<>|~])", r"\1", text)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidRequestError(f"{path}: file size exceeds maximum limit (100MB)")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{path}: {error.strerror}") from error
    is_riff = data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"WAVE")
    if not (data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or is_riff):
        raise InvalidRequestError(f"{path}: invalid file type", hint="JPEG, PNG, WebP and WAV are understood")
    return data
