"""Finds the bundled Go template that prompts like a GGUF's Jinja template.

The index lists known Jinja texts by length and digest, in the reference system's order. For the short texts of common
formats the text itself is kept too, and anything less than 100 edits away from one counts as the same format. A text
that is not recognised gets no Go template: the native engine runs its Jinja.
"""

from __future__ import annotations

import hashlib

from donabe.template.bundled import BUNDLED, KNOWN_JINJA, KNOWN_TEXTS, BundledTemplate

MAX_DISTANCE = 100  # exclusive


def detect_template(jinja: str) -> BundledTemplate | None:
    """The bundled template for a Jinja chat template, or None."""
    prefix = hashlib.sha256(jinja.encode("utf-8", "replace")).hexdigest()[:16]
    for name, length, digest in KNOWN_JINJA:
        if length == len(jinja) and digest == prefix:
            return BUNDLED[name]
    best_name, best = "", MAX_DISTANCE
    for name, text in KNOWN_TEXTS:
        if abs(len(text) - len(jinja)) < best:
            distance = edit_distance(text, jinja)
            if distance < best:
                best_name, best = name, distance
    return BUNDLED[best_name] if best_name else None


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance over code points, with one big integer as the column of the table.

    Myers, "A fast bit-vector algorithm for approximate string matching based on dynamic programming", 1999.
    """
    if not left:
        return len(right)
    masks: dict[str, int] = {}
    for index, char in enumerate(left):
        masks[char] = masks.get(char, 0) | 1 << index
    full, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    plus, minus, score = full, 0, len(left)
    for char in right:
        match = masks.get(char, 0)
        diagonal = (((match & plus) + plus) ^ plus) | match | minus
        h_plus = minus | (full & ~(diagonal | plus))
        h_minus = plus & diagonal
        score += (h_plus & last != 0) - (h_minus & last != 0)
        h_plus = (h_plus << 1) | 1
        h_minus <<= 1
        plus = full & (h_minus | ~(diagonal | h_plus))
        minus = full & h_plus & diagonal
    return score
