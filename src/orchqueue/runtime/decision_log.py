"""The latest decisions of the core, bounded, found by the key of their task or pool.

Req: ORCH-4322
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from orchqueue.core.decisions import AnyDecision
from orchqueue.ports.decisions import DecisionKeeper

ENTRIES_AT_MOST = 200_000
BYTES_AT_MOST = 64 << 20

# What an entry costs beside its text, and a key beside its entries; measured with two entries a key.
ENTRY_BYTES = 64
KEY_BYTES = 336
# So many entries of one key are kept as a tuple; more, which only pools have, as a deque, whose ends are cheap.
TUPLE_AT_MOST = 64

_decoder: msgspec.json.Decoder[AnyDecision] = msgspec.json.Decoder(AnyDecision)


class DecisionLog:
    """Decisions in the order in which they were made; the oldest go when there are too many, or too many bytes.

    Each is kept as its JSON text: exact in size, invisible to the garbage collector, and what the keeper gets.

    Shape: `keeper` gets every decision, also those that go at once.
    Req: ORCH-4322
    """

    def __init__(
        self,
        entries_at_most: int = ENTRIES_AT_MOST,
        bytes_at_most: int = BYTES_AT_MOST,
        keeper: DecisionKeeper | None = None,
    ) -> None:
        self._entries_at_most = entries_at_most
        self._bytes_at_most = bytes_at_most
        self._keeper = keeper
        self._encode = msgspec.json.Encoder().encode
        # The key of every entry, oldest first. The first entry of a key is the oldest of that key, so this is order enough.
        self._order: deque[str] = deque()
        self._by_key: dict[str, tuple[str, tuple[bytes, ...] | deque[bytes]]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._order)

    def append(self, decision: AnyDecision) -> None:
        """Keep a decision.

        Cost: about 2 µs; on an event's path, never on a token's.
        """
        text = self._encode(decision)
        if self._keeper is not None:
            self._keeper.keep(text)
        known = self._by_key.get(decision.key)
        key, before = known or (decision.key, ())
        self.size_bytes += len(text) + ENTRY_BYTES + (0 if known else KEY_BYTES)
        if isinstance(before, deque):
            before.append(text)
        else:
            entries = (*before, text)
            self._by_key[key] = (key, entries if len(entries) <= TUPLE_AT_MOST else deque(entries))
        self._order.append(key)
        while len(self._order) > self._entries_at_most or self.size_bytes > self._bytes_at_most:
            self._drop_oldest()

    def of(self, key: str) -> tuple[AnyDecision, ...]:
        """Give what is still kept of one task or pool, oldest first.

        Cost: the entries of that key.
        """
        found: Iterable[bytes] = self._by_key[key][1] if key in self._by_key else ()
        return tuple(_decoder.decode(text) for text in found)

    def _drop_oldest(self) -> None:
        key = self._order.popleft()
        entries = self._by_key[key][1]
        self.size_bytes -= len(entries[0]) + ENTRY_BYTES
        if len(entries) == 1:
            del self._by_key[key]
            self.size_bytes -= KEY_BYTES
        elif isinstance(entries, deque):
            entries.popleft()
        else:
            self._by_key[key] = (key, entries[1:])
