"""A grammar for the answer, made to begin after the thinking: constraining all of the output would leave a model no
room to think, and a second pass would compute its prompt and thoughts again. GBNF in, GBNF out.
"""

from __future__ import annotations

import re

_ROOT = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|(?<![\w-])root(?![\w-])')
_ANSWER = "answer-after-thinking"
_STATE = "thinking-"


def after_thinking(grammar: str, opening: str, closing: str, *, started: bool) -> str:
    """`grammar` for what follows the closing tag.

    Args:
        started: The prompt ends with the opening tag. If not, the answer may also begin at once, without thinking.
    """
    blanks = r"[ \t\r\n]{0,4}"
    answer = _ROOT.sub(lambda match: _ANSWER if match[0] == "root" else match[0], grammar)
    thinking = f"{_STATE}0 {blanks} {_ANSWER}"
    root = thinking if started else f"{blanks} {_quoted(opening)} {thinking} | {_ANSWER}"
    return "\n".join((f"root ::= {root}", *_text_up_to(closing), answer))


def _text_up_to(tag: str) -> list[str]:
    """Rules for any text that ends with the first occurrence of the tag: one per number of its characters seen."""
    alphabet = sorted(set(tag))
    rules = []
    for n_seen in range(len(tag)):
        ways = [f"[^{''.join(map(_in_class, alphabet))}] {_STATE}0"]
        for character in alphabet:
            n = _longest_front(tag, tag[:n_seen] + character)
            ways.append(f"{_quoted(character)} {_STATE}{n}" if n < len(tag) else _quoted(character))
        rules.append(f"{_STATE}{n_seen} ::= {' | '.join(ways)}")
    return rules


def _longest_front(tag: str, seen: str) -> int:
    """How many characters at the end of `seen` are the beginning of the tag."""
    return next(n for n in range(len(seen), -1, -1) if seen.endswith(tag[:n]))


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\U{ord(c):08X}" if not c.isalnum() else c for c in text) + '"'


def _in_class(character: str) -> str:
    return character if character.isalnum() else f"\\U{ord(character):08X}"
