"""vLLM's OpenAI server as a replica.

Prompts go to `/v1/completions`, which reads special tokens out of the text. `messages` are rendered and tokenized by the server's
`/tokenize` and sent to the same route as token ids: one route, one stream format, and the chat that was counted is the chat that is
decoded, whatever the chat route adds to a request in another version.

vLLM does not show whose requests it works on, only how many. So an abort is confirmed by that number, and strict is what is served
one request at a time, without prefix caching, as the server's own metrics say.

Req: ORCH-3045, ORCH-3017, ORCH-4220
"""

from __future__ import annotations

import asyncio
import math
import os
from functools import cached_property
from pathlib import PurePath
from typing import ClassVar, TypeVar
from weakref import WeakSet

import msgspec

from orchqueue.adapters.engines.attempt import Prepared, RefusedError
from orchqueue.adapters.engines.connection import Answer, request
from orchqueue.adapters.engines.reading import failure_of
from orchqueue.adapters.engines.replica import Course, EngineReplica
from orchqueue.adapters.engines.results import result_request
from orchqueue.adapters.engines.sampling import Feature, JsonValue
from orchqueue.adapters.engines.schema_guard import guard_of
from orchqueue.adapters.engines.selftest import Properties, digest_of
from orchqueue.adapters.engines.vllm_messages import (
    Card,
    Detokenized,
    Figures,
    Models,
    Tokenized,
    Version,
    explain,
    read_figures,
)
from orchqueue.adapters.engines.vllm_reader import VllmReader
from orchqueue.adapters.engines.vllm_sampling import OFFERS, SEED_LIMIT, sampler_params
from orchqueue.core.request import Message, TaskSpec
from orchqueue.ports.engine import Scrape
from orchqueue.ports.errors import EngineError

T = TypeVar("T")

COMPLETIONS = "/v1/completions"
TEMPLATE_TIMEOUT_S = 10.0
UNSEEN_S = 1.5
"""How long a request of which no token came must stay out of the gauges before we trust that the engine dropped it: they are
written after a step, so a prompt that is being read is not in them yet."""
SHARED_S = 5.0
"""How long an abort waits for a server that other clients use too, whose gauges cannot show that it was ours that went."""
_PROBE = (Message("user", "x"), Message("assistant", "y"), Message("user", "z"))


class _Course:
    """What is known of one attempt. `leaving`: it was aborted or lost, and is watched."""

    def __init__(self) -> None:
        self.reader: VllmReader | None = None
        self.leaving = False

    @property
    def over(self) -> bool:
        """Tell whether the engine itself ended it."""
        return self.reader is not None and self.reader.over

    @property
    def begun(self) -> bool:
        """Tell whether a token of it has come, so that the engine's gauges hold it while it runs."""
        return self.reader is not None and self.reader.begun


class VllmReplica(EngineReplica):
    """One vLLM server behind a URL.

    Req: ORCH-4035, ORCH-4220
    """

    engine: ClassVar[str] = "vllm"
    offers: ClassVar[frozenset[Feature]] = OFFERS
    seed_limit: ClassVar[int] = SEED_LIMIT

    _card: Card | None = None
    _caching: bool | None = None

    @cached_property
    def _courses(self) -> WeakSet[_Course]:
        """Know every attempt as long as somebody holds it."""
        return WeakSet()

    @staticmethod
    def sampler_words(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
        """Say a task's samplers in vLLM's words."""
        return sampler_params(spec, profile)

    async def health(self) -> bool:
        """Tell whether the server and the engine behind it live; while the model is loaded nobody listens."""
        status = await self.answers("/health")
        if status not in {200, 503}:
            raise EngineError(f"{self.endpoint.url}/health: engine answered {status}")
        return status == 200

    async def properties(self) -> Properties:
        """Read version, model, context and what the metrics say of prefix caching.

        Req: ORCH-4441
        """
        version = self._read(await request(self.endpoint, "GET", "/version"), Version).version
        self.refuse_simulated("simulated" in version)
        card = await self.card()
        figures = await self.gauges()
        self._caching = figures.prefix_caching
        if card.max_model_len is None:
            raise EngineError(f"{self.endpoint.url}/v1/models does not tell max_model_len of {card.id}")
        return Properties(
            slots_total=self.description.slots,
            ctx=card.max_model_len,
            engine_version=f"vllm-{version}",
            model_digest=digest_of(card.id, PurePath(card.root).name, await self._rendered_probe()),
            not_strict=why_not_strict(figures),
        )

    async def card(self) -> Card:
        """Read which model is served: the first that is no adapter of another.

        Errors: EngineError where there is none.
        """
        if self._card is None:
            models = self._read(await request(self.endpoint, "GET", "/v1/models"), Models).data
            own = [card for card in models if card.parent is None]
            if not own:
                raise EngineError(f"{self.endpoint.url}/v1/models names no model")
            self._card = own[0]
        return self._card

    async def gauges(self) -> Figures:
        """Read the metrics; all unknown where the server has none."""
        answer = await request(self.endpoint, "GET", "/metrics")
        if answer.status in {401, 403, 404}:
            return Figures()
        if answer.status != 200:
            raise EngineError(f"{self.endpoint.url}/metrics: {explain(answer.status, answer.body)}")
        try:
            return read_figures(answer.body)
        except ValueError as error:
            raise EngineError(f"{self.endpoint.url}/metrics cannot be read: {error}") from error

    async def is_idle(self) -> bool | None:
        """Tell whether nothing runs and nothing waits."""
        held = (await self.gauges()).held
        return None if held is None else held == 0

    async def count_prompt(self, spec: TaskSpec) -> int | None:
        """Count with the server's tokenizer, as the completion will."""
        if spec.messages is not None:
            return (await self.tokenize(messages=spec.messages)).count
        return None if spec.prompt is None else (await self.tokenize(prompt=spec.prompt)).count

    async def tokenize(
        self, *, prompt: str = "", messages: tuple[Message, ...] | None = None, bare: bool = False
    ) -> Tokenized:
        """Tokenize a text, or a chat rendered by the model's own template. `bare`: without a token for the beginning.

        Errors: RefusedError where the server or the template refuses, EngineError where no answer came.
        Req: ORCH-4036
        """
        asked: dict[str, object] = {"model": (await self.card()).id}
        if messages is not None:
            asked |= {"messages": messages, "add_generation_prompt": True}
        else:
            asked |= {"prompt": prompt, "add_special_tokens": not bare}
        answer = await request(self.endpoint, "POST", "/tokenize", msgspec.json.encode(asked), TEMPLATE_TIMEOUT_S)
        return self._read(answer, Tokenized)

    async def template_bytes(self, messages: tuple[Message, ...]) -> int | None:
        """Measure a chat as the model's template renders it."""
        return len((await self._rendered(messages)).encode())

    async def figures(self) -> Scrape:
        """Read how full the KV memory is."""
        used = (await self.gauges()).kv_usage_ratio
        return Scrape(None if used is None else min(1.0, max(0.0, used)))

    def result(self, spec: TaskSpec) -> Prepared:
        """Ask for vectors or ranks; a server does one of the three that it was started for."""
        path = "/v1/embeddings" if spec.workload == "embedding" else "/v1/rerank"
        named = {} if self._card is None else {"model": self._card.id}
        return result_request(spec, path, VllmReader(asyncio.get_running_loop().time), **named)

    def course(self, spec: TaskSpec, profile: str, cache_prompt: bool, said: str) -> Course:
        """Say how an attempt is made and ended. To go on from a text is to have it at the end of the prompt."""
        course = _Course()
        self._courses.add(course)

        async def prepare() -> Prepared:
            return await self._prepare(spec, profile, cache_prompt, said, course)

        async def settle(answered: bool) -> None:
            del answered  # the head comes before the first step, so it tells nothing of the engine
            course.leaving = True
            await self._until_gone(course)

        return Course(prepare, settle)

    async def _prepare(self, spec: TaskSpec, profile: str, cache_prompt: bool, said: str, course: _Course) -> Prepared:
        params = self.sampler_words(spec, profile)
        guard = guard_of(spec.sampling)
        params |= {
            "model": (await self.card()).id,
            "prompt": (spec.prompt or "") + said if spec.messages is None else await self._chat(spec.messages, said),
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        if self._caching and not cache_prompt:
            # Nobody else has this salt, so nothing that was kept is found.
            params["cache_salt"] = os.urandom(16).hex()
        course.reader = VllmReader(asyncio.get_running_loop().time)
        return Prepared(COMPLETIONS, msgspec.json.encode(params), course.reader, guard)

    async def _chat(self, messages: tuple[Message, ...], said: str) -> list[int]:
        tokens = (await self.tokenize(messages=messages)).tokens
        return [*tokens, *(await self.tokenize(prompt=said, bare=True)).tokens] if said else tokens

    async def _until_gone(self, course: _Course) -> None:
        """Return when the engine holds nothing of the attempt, or is dead.

        1. It holds no more requests than others of ours that are seen to run: it is gone, where a token or an error of it had come.
        2. No token had come: it may be on its way to the engine, or its prompt be read; it must stay unseen for a while from the
           first answer on.
        3. A server that hides its metrics gets that same while; one that others use too may never hold so few.
        """
        now_s = asyncio.get_running_loop().time
        seen, began_s = course.begun or course.over, math.inf

        async def is_gone() -> bool:
            nonlocal seen, began_s
            held = (await self.gauges()).held
            began_s = min(began_s, now_s())
            ours = sum(one.begun and not one.over and not one.leaving for one in self._courses)
            if held is not None and held > ours:
                seen = True
                return now_s() >= began_s + SHARED_S
            return (seen and held is not None) or now_s() >= began_s + UNSEEN_S

        await self.poll(is_gone)

    async def _rendered(self, messages: tuple[Message, ...]) -> str:
        body = msgspec.json.encode(
            {"model": (await self.card()).id, "tokens": (await self.tokenize(messages=messages)).tokens}
        )
        answer = await request(self.endpoint, "POST", "/detokenize", body, TEMPLATE_TIMEOUT_S)
        return self._read(answer, Detokenized).prompt

    async def _rendered_probe(self) -> str:
        try:
            return await self._rendered(_PROBE)
        except RefusedError:
            return ""  # a model without a chat template, or one that takes no such chat

    def _read(self, answer: Answer, kind: type[T]) -> T:
        if answer.status != 200:
            detail = f"{self.endpoint.url}: {explain(answer.status, answer.body)}"
            raise RefusedError(failure_of(answer.status), detail)
        return self.decoded(answer, kind)


def why_not_strict(figures: Figures) -> str:
    """Say why a server cannot serve strict tasks; nothing where its metrics say that it may.

    >>> why_not_strict(Figures(prefix_caching=False))
    ''
    """
    if figures.prefix_caching is None:
        return "the server's metrics do not say whether prefix caching is off"
    if figures.prefix_caching:
        return "prefix caching is on, so a text depends on what was served before; start vLLM with --no-enable-prefix-caching"
    return ""
