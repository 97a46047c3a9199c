"""A growing list of token ids in one numpy array: cheap to append to, cheap to slice, shared by reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

_ROOM = 256  # tokens of spare room a buffer starts with


class TokenBuffer:
    """int32 tokens, append only. Radix nodes refer to ranges of it, so a range once written never changes."""

    __slots__ = ("_array", "n")

    def __init__(self, tokens: Int32Array) -> None:
        self.n = len(tokens)
        self._array = np.empty(self.n + _ROOM, np.int32)
        self._array[: self.n] = tokens

    def append(self, token: int) -> None:
        if self.n == len(self._array):
            self._grow(self.n + 1)
        self._array[self.n] = token
        self.n += 1

    def extend(self, tokens: list[int]) -> None:
        if len(tokens) == 1:  # nearly always: one token a step
            self.append(tokens[0])
            return
        end = self.n + len(tokens)
        if end > len(self._array):
            self._grow(end)
        self._array[self.n : end] = tokens
        self.n = end

    def view(self, start: int = 0, stop: int | None = None) -> Int32Array:
        """Tokens [start, stop) without a copy; stays valid (and unchanged) when the buffer grows."""
        return self._array[start : self.n if stop is None else stop]

    def __getitem__(self, i: int) -> int:
        return int(self._array[i])

    def __len__(self) -> int:
        return self.n

    def _grow(self, least: int) -> None:
        array = np.empty(max(least, 2 * len(self._array)), np.int32)
        array[: self.n] = self._array[: self.n]
        self._array = array


def common_prefix(a: Int32Array, b: Int32Array) -> int:
    """How many leading tokens are equal."""
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    different = a[:n] != b[:n]
    first = int(different.argmax())
    return first if different[first] else n
