"""Hugging Face Text Generation Inference behind its router.

Prompts: `/generate_stream` reads special tokens out of the prompt text and puts the tokenizer's own beginning-of-sequence token before
it; a request cannot switch that off. A chat is rendered by the router's `/chat_tokenize`, and where the template begins with the same
token, that is taken off again, so that it is there once.

Req: ORCH-3045, ORCH-3017, ORCH-4221
"""

from __future__ import annotations

import asyncio
import math
from typing import ClassVar, TypeVar

import msgspec

from orchqueue.adapters.engines.attempt import Prepared, RefusedError
from orchqueue.adapters.engines.connection import Answer, request
from orchqueue.adapters.engines.replica import Course, EngineReplica
from orchqueue.adapters.engines.sampling import Feature, JsonValue
from orchqueue.adapters.engines.schema_guard import guard_of
from orchqueue.adapters.engines.selftest import Properties, digest_of
from orchqueue.adapters.engines.tgi_gauges import Gauges, read_gauges
from orchqueue.adapters.engines.tgi_messages import (
    STOP_SEQUENCES_MAX,
    ChatTokenized,
    Info,
    PromptToken,
    explain,
    failure_of_answer,
)
from orchqueue.adapters.engines.tgi_reader import TgiReader
from orchqueue.adapters.engines.tgi_sampling import OFFERS, SEED_LIMIT, generate_params
from orchqueue.core.request import Message, TaskSpec
from orchqueue.ports.engine import Scrape
from orchqueue.ports.errors import EngineError

T = TypeVar("T")

TOKENIZE_TIMEOUT_S = 10.0
METRICS_TIMEOUT_S = 2.0
WORKING_SILENTLY_S = 60.0
"""For so long since it was last seen well a model that works may leave health polls unanswered."""
UNSEEN_S = 1.5
"""How long the router must be idle before we trust that it dropped a request that it never answered."""
IDLE_LOOKS = 2
"""Between the queue and the model a request is in no figure for a moment, so one look does not do."""
CALLS_AFTER = 2
"""After so many more runs of the model a request that nobody listens to is out of the batch: each run drops those."""


class TgiReplica(EngineReplica):
    """One TGI router behind a URL.

    Req: ORCH-4035, ORCH-4221
    """

    engine: ClassVar[str] = "tgi"
    offers: ClassVar[frozenset[Feature]] = OFFERS
    seed_limit: ClassVar[int] = SEED_LIMIT

    _stops_max = STOP_SEQUENCES_MAX
    _added_id: int | None = None
    _knows_added = False
    _well_at_s = -math.inf

    @staticmethod
    def sampler_words(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
        """Say a task's samplers in TGI's words."""
        return generate_params(spec, profile)

    async def health(self) -> bool:
        """Tell whether the model answers; the router listens only when it is loaded.

        The model answers between two of its runs, so that a long prompt keeps it silent for as long as it is read. Then the router's
        figures are asked: at work, and well a moment ago, is well.

        Req: ORCH-4455
        """
        try:
            status = await self.answers("/health")
        except EngineError as error:
            lately = asyncio.get_running_loop().time() - self._well_at_s < WORKING_SILENTLY_S
            if isinstance(error.__cause__, TimeoutError) and lately and await self.is_idle() is False:
                return True
            raise
        if status not in {200, 503}:
            raise EngineError(f"{self.endpoint.url}/health answered {status}")
        if status == 200:
            self._well_at_s = asyncio.get_running_loop().time()
        return status == 200

    async def properties(self) -> Properties:
        """Read `/info`.

        The router does not tell how many requests the model works on at once, so the pool says it. `model_sha` is a revision of a
        repository, and no digest of its files.
        """
        info = self._read(await request(self.endpoint, "GET", "/info"), Info)
        self.refuse_simulated("simulated" in info.version)
        self._stops_max = info.max_stop_sequences
        slots = min(self.description.slots, info.max_concurrent_requests or self.description.slots)
        return Properties(slots, info.ctx, info.engine_version, digest_of(info.model_id, info.model_sha or ""))

    async def gauges(self) -> Gauges | None:
        """Read how much it works; None where it does not show it."""
        answer = await request(self.endpoint, "GET", "/metrics", timeout_s=METRICS_TIMEOUT_S)
        return read_gauges(answer.body) if answer.status == 200 else None

    async def is_idle(self) -> bool | None:
        """Tell whether it works on nothing."""
        gauges = await self.gauges()
        return None if gauges is None else gauges.idle

    async def figures(self) -> Scrape:
        """Read how much KV memory is promised to the batch."""
        gauges = await self.gauges()
        return Scrape(None if gauges is None else gauges.kv_usage_ratio)

    async def count_prompt(self, spec: TaskSpec) -> int | None:
        """Count with the router's tokenizer, as `/generate_stream` will."""
        if spec.messages is not None:
            return (await self._render(spec.messages))[1]
        return None if spec.prompt is None else len(await self._tokenize(spec.prompt))

    async def template_bytes(self, messages: tuple[Message, ...]) -> int | None:
        """Measure a chat as the model's template renders it."""
        return len((await self._chat(messages)).templated_text.encode())

    def course(self, spec: TaskSpec, profile: str, cache_prompt: bool, said: str) -> Course:
        """Say how an attempt is made and ended. To go on from a text is to have it at the end of the prompt."""
        # The router has no such wish for one request: its prefix cache is on or off for all.
        del cache_prompt

        async def prepare() -> Prepared:
            return await self._prepare(spec, profile, said)

        return Course(prepare, self._until_dropped)

    async def _prepare(self, spec: TaskSpec, profile: str, said: str) -> Prepared:
        params = self.sampler_words(spec, profile)
        params["stop"] = list(spec.sampling.stop[: self._stops_max])
        guard = guard_of(spec.sampling)
        tokens_in = 0
        if spec.messages is not None:
            inputs, tokens_in = await self._render(spec.messages)
        else:
            inputs = spec.prompt or ""
        if spec.sampling.stop and (said or not tokens_in):
            # Behind a stop string the engine's own count may never come.
            tokens_in = len(await self._tokenize(inputs + said))
        body = msgspec.json.encode({"inputs": inputs + said, "parameters": params})
        return Prepared("/generate_stream", body, TgiReader(spec.sampling.stop, tokens_in), guard)

    async def _render(self, messages: tuple[Message, ...]) -> tuple[str, int]:
        """Render a chat for `/generate_stream`, and count its tokens there.

        1. The template's text begins with the token that the tokenizer adds: that is taken off, since it is added again.
        2. It does not: the tokenizer's token comes before it and counts.

        Req: ORCH-4036, ORCH-4450
        """
        chat, added_id = await self._chat(messages), await self._added()
        text, tokens = chat.templated_text, chat.tokenize_response
        # A tokenizer that is not the fast one gives no places at all.
        placed = any(token.stop for token in tokens)
        if placed and not tokens[0].stop:
            tokens = tokens[1:]
        if added_id is None:
            return text, len(tokens)
        if placed and tokens[0].id == added_id:
            return text[tokens[0].stop :], len(tokens)
        return text, len(tokens) + 1

    async def _added(self) -> int | None:
        """Learn once which token the tokenizer puts before every prompt, if any: it stands for no character."""
        if not self._knows_added:
            tokens = await self._tokenize("a")
            self._added_id = tokens[0].id if len(tokens) > 1 and tokens[0].start == tokens[0].stop else None
            self._knows_added = True
        return self._added_id

    async def _chat(self, messages: tuple[Message, ...]) -> ChatTokenized:
        body = msgspec.json.encode({"messages": messages})
        return await self._ask("/chat_tokenize", body, ChatTokenized)

    async def _tokenize(self, inputs: str) -> list[PromptToken]:
        return await self._ask("/tokenize", msgspec.json.encode({"inputs": inputs}), list[PromptToken])

    async def _ask(self, path: str, body: bytes, kind: type[T]) -> T:
        answer = await request(self.endpoint, "POST", path, body, TOKENIZE_TIMEOUT_S)
        if answer.status != 200:
            # An old router has no such route; asking another of its kind cannot help.
            failure = "rejected" if answer.status == 404 else failure_of_answer(answer.status, answer.body)
            raise RefusedError(failure, f"{path}: {explain(answer.status, answer.body)}")
        return self._read(answer, kind)

    async def _until_dropped(self, answered: bool) -> None:
        """Return when the router holds nothing of a request whose connection was closed.

        1. Idle, at each of some looks in a row: it is over. One that it never answered may still be on its way; then it must be idle
           for a while from the first answer on.
        2. At work for others: the model has run for them often enough since. What waits in the queue is dropped when its turn comes.
        3. A router that hides its figures gets that same while. A silent one is asked again; a refused connection means it is dead.

        Req: ORCH-3017, ORCH-4453
        """
        loop = asyncio.get_running_loop()
        unseen_until_s = math.inf
        looks = 0
        calls_then: int | None = None

        async def is_over() -> bool:
            nonlocal looks, calls_then, unseen_until_s
            gauges = await self.gauges()
            unseen_until_s = min(unseen_until_s, loop.time() + UNSEEN_S)
            settled = answered or loop.time() >= unseen_until_s
            if gauges is None:
                return loop.time() >= unseen_until_s
            if gauges.idle:
                looks += 1
                return settled and looks >= IDLE_LOOKS
            looks = 0
            calls_then = gauges.calls_begun if calls_then is None else calls_then
            return settled and gauges.calls_ended >= calls_then + CALLS_AFTER

        await self.poll(is_over)

    def _read(self, answer: Answer, kind: type[T]) -> T:
        if answer.status != 200:
            raise EngineError(f"{self.endpoint.url}: {explain(answer.status, answer.body)}")
        return self.decoded(answer, kind)
