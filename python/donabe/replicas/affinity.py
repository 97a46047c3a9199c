"""Which replica a request goes to: the one that has seen the longest beginning of its prompt, unless it is overloaded.

Pure: no Ray, no clock, no I/O. The table guesses what the replicas' prefix caches hold from what was sent to them; a
wrong guess costs a prefill and nothing else. A prompt is known by keys of its beginnings: its text is not kept.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from donabe.types import ChatRequest, GenerateRequest, Message

KEY_BYTES = 8
# Beginnings are compared at these lengths: what is shared beyond the last one is not seen, and not worth a choice.
FINE_BYTES = 64
FINE_UNTIL_BYTES = 8 << 10
COARSE_BYTES = 1 << 10
COARSE_UNTIL_BYTES = 512 << 10
MAX_KNOWN_KEYS = 100_000  # the least recently used go first; about 30 MB

_SEPARATOR = b"\x1e"


def prefix_keys(request: GenerateRequest | ChatRequest) -> bytes:
    """Keys of the prompt's beginnings, shortest first, `KEY_BYTES` each. Prompts below `FINE_BYTES` have none.

    Equal keys mean equal text up to there, as far as 64 bits of hash can tell, and equal cache salts.
    """
    running = hashlib.blake2b(digest_size=KEY_BYTES)
    keys: list[bytes] = []
    length = 0
    next_cut = FINE_BYTES
    for part in _parts(request):
        at = 0
        while length + len(part) - at >= next_cut:
            n_taken = next_cut - length
            running.update(part[at : at + n_taken])
            at += n_taken
            length = next_cut
            keys.append(running.digest())
            next_cut += FINE_BYTES if next_cut < FINE_UNTIL_BYTES else COARSE_BYTES
            if next_cut > COARSE_UNTIL_BYTES:
                return b"".join(keys)
        running.update(part[at:])
        length += len(part) - at
    return b"".join(keys)


def split_keys(keys: bytes) -> list[bytes]:
    """The single keys of what `prefix_keys` returned."""
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


def _parts(request: GenerateRequest | ChatRequest) -> Iterator[bytes]:
    """What a prompt is made of, about in the order in which templates write it."""
    if request.scheduling.cache_salt:
        yield _bytes(request.scheduling.cache_salt)
    if isinstance(request, GenerateRequest):
        prompt = request.prompt
        yield _bytes(prompt) if isinstance(prompt, str) else struct.pack(f"<{len(prompt)}q", *prompt)
        return
    if request.tools:
        yield msgspec.json.encode(request.tools)
    for message in request.messages:
        yield from _message_parts(message)


def _message_parts(message: Message) -> Iterator[bytes]:
    for text in (message.role, message.thinking, message.content, message.tool_name):
        yield _bytes(text)
    for image in message.images:
        yield hashlib.blake2b(image, digest_size=KEY_BYTES).digest()
    if message.tool_calls:
        yield msgspec.json.encode(message.tool_calls)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace") + _SEPARATOR


class AffinityTable:
    """What was sent where, and what runs where. Belongs to one thread.

    Args:
        max_imbalance: A replica is overloaded when it has this many requests more than the least loaded one.
    """

    def __init__(self, *, max_imbalance: int, max_known_keys: int = MAX_KNOWN_KEYS) -> None:
        self._max_imbalance = max_imbalance
        self._max_known_keys = max_known_keys
        self._running: dict[str, set[str]] = {}  # replica -> its requests
        self._n_begun: dict[str, int] = {}
        self._holders: OrderedDict[bytes, set[str]] = OrderedDict()  # key -> replicas that were sent this beginning

    def set_replicas(self, replicas: Iterable[str]) -> None:
        """The replicas there are now. What was known of others is forgotten."""
        now = list(replicas)
        if self._running.keys() == set(now):
            return
        self._running = {replica: self._running.get(replica, set()) for replica in now}
        # A newcomer counts as used as much as the others: it gets its share of what comes, and not everything.
        newcomers_n = max((self._n_begun.get(replica, 0) for replica in now), default=0)
        self._n_begun = {replica: self._n_begun.get(replica, newcomers_n) for replica in now}
        for holders in self._holders.values():
            holders.intersection_update(now)

    def load(self, replica: str) -> int:
        """Requests that were sent to this replica and have not ended."""
        return len(self._running[replica])

    def rank(self, keys: Sequence[bytes]) -> list[str]:
        """All replicas, the best one for this prompt first, then by load."""
        by_load = sorted(self._running, key=self._cost)
        if not by_load:
            return []
        limit = self.load(by_load[0]) + self._max_imbalance
        for key in reversed(keys):
            fit = [replica for replica in self._holders.get(key, ()) if self.load(replica) < limit]
            if fit:
                best = min(fit, key=self._cost)
                return [best, *(replica for replica in by_load if replica != best)]
        return by_load

    def _cost(self, replica: str) -> tuple[int, int, str]:
        return len(self._running[replica]), self._n_begun[replica], replica

    def begin(self, request: str, replica: str, keys: Sequence[bytes]) -> None:
        """A request goes to this replica; if it was meant for another before, it no longer is."""
        requests = self._running.get(replica)
        if requests is None or request in requests:
            return
        self.end(request)
        requests.add(request)
        self._n_begun[replica] += 1
        for key in keys:
            self._holders.setdefault(key, set()).add(replica)
            self._holders.move_to_end(key)
        while len(self._holders) > self._max_known_keys:
            self._holders.popitem(last=False)

    def move(self, request: str, replica: str, keys: Sequence[bytes]) -> None:
        """A request went to another replica than was meant. Ignored when it has ended already."""
        if any(request in requests for requests in self._running.values()):
            self.begin(request, replica, keys)

    def end(self, request: str) -> None:
        """A request has ended. Unknown ones are ignored."""
        for requests in self._running.values():
            requests.discard(request)
