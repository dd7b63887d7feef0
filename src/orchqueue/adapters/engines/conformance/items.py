"""The table of checks: what an engine must do, what it needs to offer for that, and how a run is told.

Req: ORCH-4212, ORCH-4433
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import NamedTuple

import msgspec

from orchqueue.adapters.engines.conformance import checks
from orchqueue.adapters.engines.conformance.listening import DisprovedError
from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.adapters.engines.sampling import Feature
from orchqueue.core.request import Workload
from orchqueue.ports.errors import EngineError

ITEM_TIMEOUT_S = 120.0


class Item(NamedTuple):
    """One check. `needs`: features without which it does not apply. `workloads`: what its engine may be serving."""

    name: str
    title: str
    check: Callable[[EngineReplica], Awaitable[None]]
    needs: frozenset[Feature] = frozenset()
    workloads: frozenset[Workload] = frozenset({"completion"})

    def applies(self, offers: frozenset[Feature], workload: Workload = "completion") -> bool:
        """Tell whether an engine that offers so much has to pass it, serving this workload."""
        return self.needs <= offers and workload in self.workloads


def _needs(*features: Feature) -> frozenset[Feature]:
    return frozenset(features)


_ALL: frozenset[Workload] = frozenset({"completion", "embedding", "rerank"})
ITEMS: tuple[Item, ...] = (
    Item("health", "health", checks.is_healthy, workloads=_ALL),
    Item("properties", "slots, context, version, model digest", checks.tells_properties, workloads=_ALL),
    Item("tokenize", "prompt tokens counted as the engine counts", checks.counts_tokens, _needs("tokenize")),
    Item("stream", "streaming, whole characters, counts", checks.streams),
    Item("repeat", "same request, same text", checks.repeats),
    Item("profiles", "seed and sampler profile", checks.heeds_seed_and_profile),
    Item("seeds", "range of seeds", checks.takes_its_seeds),
    Item("stop", "stop strings left out", checks.stops_at_strings, _needs("stop")),
    Item("chat", "chats through the model's template", checks.renders_chats, _needs("messages")),
    Item("controls", "control characters in the prompt", checks.reads_controls),
    Item("grammar", "grammar", checks.binds_to_grammar, _needs("grammar")),
    Item("json_schema", "JSON Schema", checks.binds_to_schema, _needs("json_schema")),
    Item("rejects", "rejects what it can never do", checks.rejects_what_cannot_be),
    Item("lacks", "names what it does not offer", checks.says_what_it_lacks),
    Item("continuation", "goes on from a begun text", checks.goes_on, _needs("continuation")),
    Item("abort", "abort confirmed by the engine", checks.stops_when_told),
    Item("abort_early", "abort before the first token", checks.stops_before_it_began),
    Item("abort_chat", "abort while a chat is rendered", checks.stops_while_a_chat_is_rendered, _needs("messages")),
    Item("abort_late", "abort after the end", checks.ignores_a_late_stop),
    Item("figures", "KV usage", checks.tells_figures),
    Item("self_test", "self-test", checks.passes_self_test, workloads=_ALL),
    Item("embedding", "embeddings", checks.embeds, _needs("embedding"), frozenset({"embedding"})),
    Item("rerank", "reranking", checks.ranks, _needs("rerank"), frozenset({"rerank"})),
)  # fmt: skip


class Verdict(msgspec.Struct, frozen=True):
    """How one check went. `passed` None: the engine does not offer what it needs. Units: `took_ms`."""

    name: str
    title: str
    passed: bool | None
    detail: str
    took_ms: int


async def run_items(replica: EngineReplica, items: tuple[Item, ...] = ITEMS) -> AsyncIterator[Verdict]:
    """Run checks one after another and tell each as it ends; one that fails does not keep the others from running."""
    workload = replica.description.workloads[0]
    for item in items:
        if workload not in item.workloads:
            continue
        if not item.applies(replica.offers, workload):
            missing = ", ".join(sorted(item.needs - replica.offers))
            yield Verdict(item.name, item.title, None, f"{replica.engine} does not offer {missing}", 0)
            continue
        began_s = monotonic()
        problem = ""
        try:
            async with asyncio.timeout(ITEM_TIMEOUT_S):
                await item.check(replica)
        except (DisprovedError, EngineError) as error:
            problem = str(error)
        except TimeoutError:
            problem = f"no end within {ITEM_TIMEOUT_S:g} s"
        yield Verdict(item.name, item.title, not problem, problem, round((monotonic() - began_s) * 1000))
