"""The local files a Modelfile names: paths resolved, folders searched, names made relative. Looks at the file
system.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from donabe.errors import InvalidRequestError
from donabe.modelfile.parser import modelfile_error

_OTHER_WEIGHTS = (
    "model*.safetensors",
    "*/model*.safetensors",
    "consolidated*.safetensors",
    "pytorch_model*.bin",
    "*.pth",
)
_NO_FILES = "no Modelfile or safetensors files found"


def source_files(value: str, folder: Path) -> tuple[Path, ...] | None:
    """The files of a FROM value, or None when it is a model name.

    Args:
        value: A file, a folder, or a name; "" is the folder itself.
        folder: Where relative paths start.

    Raises:
        InvalidRequestError: a path that does not exist, or a folder without a GGUF.
    """
    path = resolve_path(value, folder)
    if path.exists():
        return files_of(path)
    if value.startswith(("./", "../", "/", "~")) or (value.lower().endswith(".gguf") and not set(value) & {"/", ":"}):
        raise _missing(path)
    return None


def required_files(value: str, folder: Path) -> tuple[Path, ...]:
    """The files of an ADAPTER or DRAFT value, which must exist.

    Raises:
        InvalidRequestError: it does not, or is a folder without a GGUF.
    """
    path = resolve_path(value, folder)
    if not path.exists():
        raise _missing(path)
    return files_of(path)


def resolve_path(value: str, folder: Path) -> Path:
    """An absolute path; `~` and `~user` are expanded, links are kept."""
    return Path(os.path.abspath(folder / os.path.expanduser(value)))


def files_of(path: Path) -> tuple[Path, ...]:
    """The path itself, or the GGUFs of a folder.

    Raises:
        InvalidRequestError: there is none.
    """
    if not path.is_dir():
        return (path,)
    found = sorted(item for item in path.glob("*.gguf") if item.is_file())
    if found:
        return tuple(found)
    other = next((item for pattern in _OTHER_WEIGHTS for item in sorted(path.glob(pattern))), None)
    if other is not None:
        raise modelfile_error(
            f"{other.name} is not in GGUF format",
            hint="donabe creates models from GGUF files: convert it with llama.cpp's convert_hf_to_gguf.py first",
        )
    raise modelfile_error(_NO_FILES, hint=f"put a GGUF file into {path}, or name one with FROM")


def check_draft(drafts: Iterable[Path], sources: Sequence[Path]) -> None:
    """Refuse a draft model that is the model itself.

    Raises:
        InvalidRequestError: it is.
    """
    known = {os.path.realpath(path) for path in sources}
    for path in drafts:
        if os.path.realpath(path) in known:
            raise modelfile_error(f"DRAFT must not reference the same local path as FROM: {path}")


def relative_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by their names below their common folder, as requests name them."""
    if not paths:
        return {}
    root = os.path.commonpath([path.parent for path in paths])
    return {Path(os.path.relpath(path, root)).as_posix(): path for path in paths}


def _missing(path: Path) -> InvalidRequestError:
    return modelfile_error(f"stat {path}: no such file or directory")
