"""Model names: the grammar, the defaults, and the two ways a name is shown.

Owns the text form `[scheme://][host/][namespace/]model[:tag]`. A valid name is safe to use as a path by construction:
no part may be empty, start with a dot or hold a separator. Knows nothing of the store or of the network. Pure values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from donabe.errors import InvalidNameError, InvalidRequestError

DEFAULT_SCHEME = "https"
DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_MISSING = "!MISSING!"  # marks a part whose separator was there; `!` is in no part's alphabet, so it never validates
_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII),
}

Where = Literal["local", "cloud", ""]


def _fold(text: str) -> str:
    """ASCII lower case; names hold nothing else."""
    return text.lower()


def _cut_last(text: str, separator: str) -> tuple[str, str, bool]:
    """Split at the last separator. A side that is promised but empty becomes the sentinel."""
    left, found, right = text.rpartition(separator)
    if not found:
        return "", text, False
    return left or _MISSING, right or _MISSING, True


@dataclass(frozen=True, slots=True)
class ModelName:
    """A valid model name. Case is kept; compare with `key`, which folds it.

    Make one with `ModelName.parse`; the constructor checks the parts too, so an invalid name can't exist.
    """

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = DEFAULT_SCHEME

    def __post_init__(self) -> None:
        for part, pattern in _PARTS.items():
            if not pattern.fullmatch(getattr(self, part)):
                raise InvalidNameError("invalid model name", hint=_explain(part, getattr(self, part)))

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse any of the text forms, filling in the defaults.

        Raises:
            InvalidNameError: A part is empty, too long or holds a character that is not allowed there.
        """
        rest, tag = text, ""
        if text.rfind(":") > text.rfind("/"):
            rest, tag, _ = _cut_last(text, ":")
        rest, model, has_namespace = _cut_last(rest, "/")
        namespace, host, scheme = "", "", ""
        if has_namespace:
            rest, namespace, has_host = _cut_last(rest, "/")
            if has_host:
                scheme, found, host = rest.partition("://")
                if not found:
                    scheme, host = "", rest
                elif not scheme or not host:
                    host = _MISSING
        return cls(
            host or DEFAULT_HOST, namespace or DEFAULT_NAMESPACE, model, tag or DEFAULT_TAG, scheme or DEFAULT_SCHEME
        )

    @property
    def full(self) -> str:
        """`host/namespace/model:tag`, without the scheme."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """The shortest form that still means this name; always shows the tag."""
        name = f"{self.model}:{self.tag}"
        if _fold(self.host) != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        if _fold(self.namespace) != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{name}"
        return name

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal for names that mean the same model."""
        return _fold(self.host), _fold(self.namespace), _fold(self.model), _fold(self.tag)

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """host, namespace, model, tag: the path below `manifests/`."""
        return self.host, self.namespace, self.model, self.tag

    @property
    def repository(self) -> str:
        """`namespace/model`, as registries address it."""
        return f"{self.namespace}/{self.model}"

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def spelled_like(self, stored: tuple[ModelName, ...]) -> ModelName:
        """This name with each part respelled as in any stored name that has the same part, ignoring case.

        Parts are matched one by one, not as a whole: that is what keeps two spellings of one part from coexisting.
        """
        changes: dict[str, str] = {}
        for part in ("host", "namespace", "model", "tag"):
            wanted = getattr(self, part)
            spellings = {getattr(name, part) for name in stored if _fold(getattr(name, part)) == _fold(wanted)}
            if spellings and wanted not in spellings:
                changes[part] = min(spellings)
        return replace(self, **changes) if changes else self

    def __str__(self) -> str:
        return self.short


def _explain(part: str, value: str) -> str:
    if value in ("", _MISSING):
        return f"the {part} is missing; names look like [host/][namespace/]model[:tag]"
    limit = 350 if part == "host" else 80
    if len(value) > limit:
        return f"the {part} is longer than {limit} characters"
    allowed = {"host": "letters, digits and _ . : -", "namespace": "letters, digits and _ -"}.get(
        part, "letters, digits and _ . -"
    )
    return f"the {part} {value!r} must start with a letter, digit or _ and hold only {allowed}"


def has_explicit_tag(text: str) -> bool:
    """Whether the text names a tag itself (`m:7b`), as opposed to getting the default one."""
    return text.rfind(":") > text.rfind("/")


def split_where(text: str) -> tuple[str, Where]:
    """Take a `:local` or `:cloud` suffix off a name typed by a user.

    Returns:
        The base name and where it is to run; "" when the text does not say.

    Raises:
        InvalidRequestError: The name is empty, or carries two such suffixes.
    """
    text = text.strip()
    if not text:
        raise InvalidRequestError("model is required", field="model")
    base, where = _one_suffix(text)
    if where and _one_suffix(base)[1]:
        raise InvalidRequestError(f'use either :local or :cloud, not both: "{text}"', field="model")
    return base, where


def _one_suffix(text: str) -> tuple[str, Where]:
    base, found, suffix = text.rpartition(":")
    if not found:
        return text, ""
    folded = _fold(suffix)
    if folded == "cloud":
        return base, "cloud"
    if folded == "local":
        return base, "local"
    if folded.endswith("-cloud") and "/" not in suffix:
        return text[: -len("-cloud")], "cloud"
    return text, ""
