"""Every engine that an adapter serves: a new one is its module and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.adapters.engines.tgi import TgiReplica
from orchqueue.adapters.engines.triton import TritonReplica
from orchqueue.adapters.engines.vllm import VllmReplica

ENGINES: Mapping[str, type[EngineReplica]] = {
    kind.engine: kind for kind in (LlamacppReplica, VllmReplica, TgiReplica, TritonReplica)
}
