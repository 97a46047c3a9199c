"""Go's fmt verbs for the printf function: widths, precisions, flags, argument indexes and the error marks fmt leaves.

A bad format never fails, as in Go: it prints marks like `%!d(string=hi)` or `%!v(MISSING)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from donabe.template.lexer import quote
from donabe.template.limits import Budget
from donabe.template.values import byte_string, clean_text, go_text, int_text, type_name

_MAX_WIDTH = 1_000_000  # as fmt: larger widths and precisions are marked as bad
_SPEC = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>(?:\[\d+\])?\*|\d+)?(?:\.(?P<prec>(?:\[\d+\])?\*|\d*))?"
    r"(?P<index>\[\d+\])?(?P<verb>.)?",
    re.DOTALL,
)


@dataclass(slots=True)
class _Spec:
    """One directive, with `*` already replaced by numbers."""

    flags: str
    width: int | None
    prec: int | None
    verb: str


@dataclass(slots=True)
class _State:
    """Which argument comes next, and whether an index was used (then unused arguments are not reported)."""

    args: Sequence[object]
    next: int = 0
    reordered: bool = False
    marks: list[str] = field(default_factory=list)

    def jump(self, index: str) -> None:
        """Apply an explicit index such as `[2]`."""
        self.reordered = True
        self.next = int(index[1:-1]) - 1 if len(index) < 9 else len(self.args)

    def star(self, text: str, mark: str) -> int | None:
        """The number a `*` stands for, or None with a mark."""
        if text.startswith("["):
            self.jump(text[:-1])
        value = self.args[self.next] if 0 <= self.next < len(self.args) else None
        self.next += 1
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_WIDTH:
            self.marks.append(mark)
            return None
        return value


def go_sprintf(template: str, args: Sequence[object], budget: Budget) -> str:
    """Format like fmt.Sprintf. Every piece is charged to the budget before it is kept."""
    out: list[str] = []
    state = _State(args)
    pos = 0
    while True:
        start = template.find("%", pos)
        text = template[pos:] if start < 0 else template[pos:start]
        if start >= 0:
            match = _SPEC.match(template, start)
            if match is None:  # the pattern matches any "%"
                raise AssertionError("unreachable")
            text += _directive(match, state)
            pos = match.end()
        budget.work(len(text))
        out.append(text)
        if start < 0:
            break
    if not state.reordered and state.next < len(args):
        extra: list[str] = []
        for arg in args[state.next :]:
            extra.append(f"{type_name(arg)}={go_text(arg)}" if arg is not None else "<nil>")
            budget.work(len(extra[-1]))
        out.append(f"%!(EXTRA {', '.join(extra)})")
    return "".join(out)


def _directive(match: re.Match[str], state: _State) -> str:
    state.marks = []
    spec = _Spec(match["flags"], _number(match["width"], state, "%!(BADWIDTH)"), None, match["verb"] or "")
    if spec.width is not None and spec.width < 0:
        spec.flags += "-"
        spec.width = -spec.width
    if match["prec"] is not None:
        spec.prec = _number(match["prec"] or "0", state, "%!(BADPREC)")
        if spec.prec is not None and spec.prec < 0:
            spec.prec = None
    if match["index"]:
        state.jump(match["index"])
    prefix = "".join(state.marks)
    if not spec.verb:
        return prefix + "%!(NOVERB)"
    if spec.verb == "%":
        return prefix + "%"
    if not 0 <= state.next < len(state.args):
        return f"{prefix}%!{spec.verb}({'BADINDEX' if state.reordered else 'MISSING'})"
    value = state.args[state.next]
    state.next += 1
    return prefix + _format(spec, value)


def _number(text: str | None, state: _State, mark: str) -> int | None:
    if text is None:
        return None
    if text.endswith("*"):
        return state.star(text, mark)
    if len(text) > 7 or int(text) > _MAX_WIDTH:
        state.marks.append(mark)
        return None
    return int(text)


def _format(spec: _Spec, value: object) -> str:
    if spec.verb == "T":
        return _pad(spec, type_name(value) if value is not None else "<nil>")
    if spec.verb == "v":
        return _pad(spec, quote(value) if isinstance(value, str) and "#" in spec.flags else _default(spec, value))
    if value is None:
        return f"%!{spec.verb}(<nil>)"
    if isinstance(value, bool):
        text = _default(spec, value) if spec.verb == "t" else None
    elif isinstance(value, int):
        text = _int(spec, value)
    elif isinstance(value, float):
        text = _float(spec, value)
    elif isinstance(value, str):
        text = _str(spec, value)
    elif isinstance(value, (list, tuple)) and spec.verb in "dxXqbocU":
        return "[" + " ".join(_format(spec, item) for item in value) + "]"
    else:
        text = go_text(value) if spec.verb == "s" else None
        if spec.verb == "q":
            text = quote(go_text(value))
    if text is None:
        return f"%!{spec.verb}({type_name(value)}={go_text(value)})"
    return _pad(spec, text, numeric=isinstance(value, (int, float)))


def _default(spec: _Spec, value: object) -> str:
    text = go_text(value)
    plain_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "+" + text if plain_number and "+" in spec.flags and not text.startswith("-") else text


def _pad(spec: _Spec, text: str, *, numeric: bool = False) -> str:
    if spec.width is None or len(text) >= spec.width:
        return text
    if "-" in spec.flags:
        return text.ljust(spec.width)
    if "0" in spec.flags and numeric and (spec.prec is None or spec.verb not in _INT_FORMS):
        sign = text[0] if text[:1] in ("+", "-") else ""
        return sign + text[len(sign) :].rjust(spec.width - len(sign), "0")
    return text.rjust(spec.width, "0" if "0" in spec.flags and not numeric else " ")


def _sign(spec: _Spec, text: str) -> str:
    if text.startswith("-"):
        return text
    return "+" + text if "+" in spec.flags else " " + text if " " in spec.flags else text


_INT_FORMS: dict[str, Callable[[int], str]] = {
    "d": int_text,
    "b": lambda value: f"{value:b}",
    "o": lambda value: f"{value:o}",
    "O": lambda value: f"{'-' if value < 0 else ''}0o{abs(value):o}",
    "x": lambda value: f"{value:x}",
    "X": lambda value: f"{value:X}",
}
_ALTERNATE = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}


def _int(spec: _Spec, value: int) -> str | None:
    if spec.verb in _INT_FORMS:
        text = _INT_FORMS[spec.verb](value)
        if "#" in spec.flags and spec.verb in _ALTERNATE:
            text = ("-" if value < 0 else "") + _ALTERNATE[spec.verb] + text.lstrip("-")
        if spec.prec is not None:
            digits = text.lstrip("-").rjust(spec.prec, "0")
            text = "-" + digits if value < 0 else digits
        return _sign(spec, text)
    if spec.verb in "cqU":
        char = clean_text(chr(value)) if 0 <= value <= 0x10FFFF else "\ufffd"
        return {"c": char, "q": f"'{char}'", "U": f"U+{value & 0xFFFFFFFFFFFFFFFF:04X}"}[spec.verb]
    return None


def _float(spec: _Spec, value: float) -> str | None:
    if spec.verb not in "eEfFgG":
        return None
    if spec.verb in "gG" and spec.prec is None:
        text = go_text(value)
        return _sign(spec, text.upper() if spec.verb == "G" else text)
    prec = 6 if spec.prec is None else min(spec.prec, 1100)
    if spec.verb in "gG":
        text = f"{value:.{max(prec, 1)}{spec.verb}}"
    else:
        text = f"{value:.{prec}{spec.verb.lower() if spec.verb in 'fF' else spec.verb}}"
    return _sign(spec, text)


def _str(spec: _Spec, value: str) -> str | None:
    if spec.prec is not None:
        value = value[: spec.prec]
    if spec.verb == "s":
        return value
    if spec.verb == "q":
        return f"`{value}`" if "#" in spec.flags and "`" not in value and value.isprintable() else quote(value)
    if spec.verb in "xX":
        data = byte_string(value)
        text = data.hex(" ") if " " in spec.flags else data.hex()
        return text.upper() if spec.verb == "X" else text
    return None
