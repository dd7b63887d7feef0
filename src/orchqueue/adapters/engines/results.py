"""Embeddings and ranks: requests and answers in the words that several engines share.

Req: ORCH-4059, ORCH-4470
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from orchqueue.adapters.engines.attempt import Prepared
from orchqueue.adapters.engines.reading import Broken, Ended, Reading, StreamReader
from orchqueue.adapters.engines.sampling import JsonValue
from orchqueue.core.request import TaskSpec
from orchqueue.ports.engine import Completion


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Vector(msgspec.Struct, frozen=True):
    index: int
    embedding: list[float]


class _Vectors(msgspec.Struct, frozen=True):
    data: list[_Vector]
    usage: _Usage = _Usage()


class _Rank(msgspec.Struct, frozen=True):
    index: int
    relevance_score: float


class _Ranks(msgspec.Struct, frozen=True):
    results: list[_Rank]
    usage: _Usage = _Usage()


def result_request(spec: TaskSpec, path: str, reader: StreamReader, **more: JsonValue) -> Prepared:
    """Prepare an embedding or a ranking. `more`: what an engine wants besides, such as the model's name.

    Units: the time of the whole request counts as prefill, for these engines tell none.
    """
    inputs = list(spec.inputs or ())
    read: Callable[[bytes], tuple[bytes, int]]
    if spec.workload == "embedding":
        body, read = {"input": inputs, "encoding_format": "float"}, lambda answer: _vectors(answer, len(inputs))
    else:
        body, read = {"query": inputs[0], "documents": inputs[1:]}, lambda answer: _scores(answer, len(inputs) - 1)
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    def whole(answer: bytes) -> Reading:
        try:
            text, tokens_in = read(answer)
        except (msgspec.DecodeError, ValueError) as error:
            return Reading(end=Broken("engine_error", f"the engine's answer is no {spec.workload}: {error}"))
        took_ms = round((loop.time() - began_s) * 1000)
        return Reading((text.decode(),), 0, Ended(Completion("stop", tokens_in, 0, took_ms, 0), whole=True))

    return Prepared(path, msgspec.json.encode({**body, **more}), reader, whole=whole)


def _vectors(answer: bytes, wanted: int) -> tuple[bytes, int]:
    told = msgspec.json.decode(answer, type=_Vectors)
    by_index = {one.index: one.embedding for one in told.data}
    if len(told.data) != wanted or by_index.keys() != set(range(wanted)):
        raise ValueError(f"{len(told.data)} vectors came for {wanted} inputs")
    return msgspec.json.encode({"embeddings": [by_index[index] for index in range(wanted)]}), _tokens(told.usage)


def _scores(answer: bytes, wanted: int) -> tuple[bytes, int]:
    told = msgspec.json.decode(answer, type=_Ranks)
    by_index = {one.index: one.relevance_score for one in told.results}
    if len(told.results) != wanted or by_index.keys() != set(range(wanted)):
        raise ValueError(f"{len(told.results)} scores came for {wanted} documents")
    return msgspec.json.encode({"scores": [by_index[index] for index in range(wanted)]}), _tokens(told.usage)


def _tokens(usage: _Usage) -> int:
    return usage.prompt_tokens or usage.total_tokens
