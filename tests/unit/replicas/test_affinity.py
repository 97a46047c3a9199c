from __future__ import annotations

import pytest

from donabe.replicas.affinity import (
    COARSE_UNTIL_BYTES,
    FINE_BYTES,
    KEY_BYTES,
    AffinityTable,
    prefix_keys,
    split_keys,
)
from donabe.types import ChatRequest, GenerateRequest, Message, Scheduling, Tool, ToolCall

LONG = "The quick brown fox jumps over the lazy dog. " * 20


def keys(prompt: str | tuple[int, ...], salt: str = "") -> list[bytes]:
    return split_keys(prefix_keys(GenerateRequest(prompt=prompt, scheduling=Scheduling(cache_salt=salt))))


def chat_keys(*contents: str, **changes: object) -> list[bytes]:
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    messages = tuple(Message(role=role, content=content) for role, content in zip(roles, contents, strict=False))
    return split_keys(prefix_keys(ChatRequest(messages=messages, **changes)))  # type: ignore[arg-type]


def n_common(first: list[bytes], second: list[bytes]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def table(*replicas: str, max_imbalance: int = 2, **changes: int) -> AffinityTable:
    made = AffinityTable(max_imbalance=max_imbalance, **changes)
    made.set_replicas(replicas)
    return made


# --- keys ------------------------------------------------------------------------------------------------------------


def test_prompts_share_the_keys_of_what_they_share() -> None:
    assert n_common(keys(LONG + "A" * 100), keys(LONG + "B" * 100)) == len(LONG) // FINE_BYTES


def test_short_prompt_has_no_key_and_salt_makes_others() -> None:
    assert keys("too short") == []
    assert n_common(keys(LONG), keys(LONG, salt="tenant")) == 0


def test_tokens_are_compared_like_text() -> None:
    tokens = tuple(range(100))
    assert n_common(keys(tokens), keys((*tokens[:50], 7))) == 50 * 8 // FINE_BYTES


def test_next_turn_of_a_conversation_has_all_keys_of_the_last_one() -> None:
    first = chat_keys("Be brief.", LONG)
    assert len(first) > 5
    assert chat_keys("Be brief.", LONG, "An answer.", "Another question? " * 9)[: len(first)] == first


@pytest.mark.parametrize(
    "message",
    [
        Message(role="tool", content=LONG),
        Message(role="user", content=LONG, images=(b"picture",)),
        Message(role="user", content=LONG, thinking="hm"),
        Message(role="user", content=LONG, tool_calls=(ToolCall(name="f"),)),
    ],
)
def test_other_messages_have_other_keys(message: Message) -> None:
    plain = ChatRequest(messages=(Message(role="user", content=LONG), Message(role="user", content=LONG)))
    other = ChatRequest(messages=(message, Message(role="user", content=LONG)))
    assert prefix_keys(plain) != prefix_keys(other)


def test_tools_come_before_messages() -> None:
    assert n_common(chat_keys(LONG), chat_keys(LONG, tools=(Tool(name="f"),))) == 0


def test_number_of_keys_is_bounded() -> None:
    n_most = len(keys("x" * (COARSE_UNTIL_BYTES + 10_000)))
    assert n_most == len(keys("x" * (4 * COARSE_UNTIL_BYTES)))
    assert n_most * KEY_BYTES < 8 << 10


def test_lone_surrogates_do_not_matter() -> None:
    assert len(keys("\ud800" * 200)) > 0


# --- choice ----------------------------------------------------------------------------------------------------------


def test_beginning_that_was_seen_stays_at_its_replica() -> None:
    affinity = table("a", "b")
    affinity.begin("1", "b", keys(LONG))
    affinity.end("1")
    assert affinity.rank(keys(LONG + "and more")) == ["b", "a"]


def test_longest_beginning_wins() -> None:
    affinity = table("a", "b")
    affinity.begin("1", "a", keys(LONG))
    affinity.begin("2", "b", keys(LONG + "x" * 200))
    assert affinity.rank(keys(LONG + "x" * 100))[0] == "b"
    assert affinity.rank(keys(LONG + "x" * 200))[0] == "b"
    assert affinity.rank(keys(LONG + "x" * 300))[0] == "b"


def test_new_prompts_take_turns() -> None:
    affinity = table("a", "b", "c")
    chosen = []
    for i in range(6):
        prompt = keys(f"{i}" + LONG)
        replica = affinity.rank(prompt)[0]
        affinity.begin(str(i), replica, prompt)
        affinity.end(str(i))
        chosen.append(replica)
    assert sorted(chosen) == ["a", "a", "b", "b", "c", "c"]


def test_overloaded_replica_is_passed_over_and_the_next_knows_the_prompt_too() -> None:
    affinity = table("a", "b", max_imbalance=2)
    chosen = []
    for i in range(6):
        replica = affinity.rank(keys(LONG))[0]
        affinity.begin(str(i), replica, keys(LONG))
        chosen.append(replica)
    assert chosen[:3] == ["a", "a", "b"]
    assert abs(affinity.load("a") - affinity.load("b")) <= 2
    for i in range(6):
        affinity.end(str(i))
    assert affinity.load("a") == affinity.load("b") == 0


def test_of_those_that_know_it_the_least_loaded_is_taken() -> None:
    affinity = table("a", "b", "c", max_imbalance=4)
    affinity.begin("1", "a", keys(LONG))
    affinity.begin("2", "b", keys(LONG))
    affinity.begin("3", "a", [])
    assert affinity.rank(keys(LONG))[0] == "b"


def test_shorter_beginning_elsewhere_is_better_than_none() -> None:
    affinity = table("a", "b", "c", max_imbalance=1)
    affinity.begin("1", "b", keys(LONG))
    affinity.end("1")
    affinity.begin("2", "a", keys(LONG + "x" * 200))  # and it is busy with it
    assert affinity.rank(keys(LONG + "x" * 200)) == ["b", "c", "a"]


def test_request_counts_once_wherever_it_goes() -> None:
    affinity = table("a", "b")
    affinity.begin("1", "a", [])
    affinity.begin("1", "a", [])
    affinity.begin("1", "b", [])
    assert (affinity.load("a"), affinity.load("b")) == (0, 1)
    affinity.move("1", "a", [])
    assert (affinity.load("a"), affinity.load("b")) == (1, 0)
    affinity.end("1")
    affinity.move("1", "b", [])  # it ended before it was said where it went
    assert (affinity.load("a"), affinity.load("b")) == (0, 0)


def test_dead_replica_is_forgotten_and_its_successor_is_not_flooded() -> None:
    affinity = table("a", "b")
    for i in range(10):
        affinity.begin(str(i), "ab"[i % 2], keys(f"{i % 2}" + LONG))
    affinity.set_replicas(["b", "c"])
    for i in range(10):
        affinity.end(str(i))
    assert affinity.rank(keys("0" + LONG)) == ["b", "c"]
    assert affinity.rank(keys("1" + LONG)) == ["b", "c"]
    affinity.begin("new", "a", [])  # it died between the choice and this
    assert affinity.load("b") == affinity.load("c") == 0


def test_no_replica_is_no_choice() -> None:
    assert table().rank(keys(LONG)) == []


def test_known_beginnings_are_bounded() -> None:
    affinity = table("a", "b", max_known_keys=20)
    affinity.begin("old", "b", keys("old" + LONG))
    affinity.end("old")
    for i in range(5):
        affinity.begin(str(i), "a", keys(f"{i}" + LONG)[:4])
        affinity.end(str(i))
    affinity.begin("last", "b", keys("last" + LONG)[:4])
    affinity.end("last")
    assert affinity.rank(keys("4" + LONG))[0] == "a"
    assert affinity.rank(keys("last" + LONG))[0] == "b"
    assert affinity.rank(keys("old" + LONG))[0] == "b"  # by turns: it has had fewer
