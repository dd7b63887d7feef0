"""llama.cpp's own server as a replica.

Prompts: `/completion` reads special tokens out of the prompt text, so a raw prompt may hold them on purpose. `messages` go through the
model's own template and then the same way; a message that contains the text of a special token is read as that token, as it is by
the engine's own chat route. Text is passed as UTF-8 JSON; NUL characters reach the tokenizer (checked against the real engine).

Req: ORCH-3045, ORCH-3017
"""

from __future__ import annotations

import asyncio
import math
from itertools import count
from pathlib import PurePath
from typing import ClassVar, TypeVar

import msgspec

from orchqueue.adapters.engines.attempt import Prepared, RefusedError
from orchqueue.adapters.engines.connection import Answer, request
from orchqueue.adapters.engines.llamacpp_messages import Props, Rendered, Slot, Tokenized, explain
from orchqueue.adapters.engines.llamacpp_reader import LlamacppReader
from orchqueue.adapters.engines.llamacpp_sampling import OFFERS, SEED_LIMIT, sampler_params
from orchqueue.adapters.engines.reading import failure_of
from orchqueue.adapters.engines.replica import Course, EngineReplica
from orchqueue.adapters.engines.results import result_request
from orchqueue.adapters.engines.sampling import Feature, JsonValue
from orchqueue.adapters.engines.schema_guard import guard_of
from orchqueue.adapters.engines.selftest import Properties, digest_of
from orchqueue.core.request import Message, TaskSpec
from orchqueue.ports.engine import Scrape
from orchqueue.ports.errors import EngineError

T = TypeVar("T")

TEMPLATE_TIMEOUT_S = 10.0
SLOTS_TIMEOUT_S = 2.0
UNSEEN_S = 1.5
"""How long a request that was never seen in a slot must stay unseen before we trust that the engine dropped it."""

_WANTED = (
    "content", "stop", "stop_type", "stopping_word", "tokens_predicted", "tokens_evaluated", "truncated", "timings",
)  # fmt: skip
"""Fields of the last event; without this list it repeats the whole prompt."""

# `/slots` shows a slot's parameters but not whose request it runs, so each attempt carries a number of its own in a parameter
# that is read only when mirostat is on, which `profiles` switches off. Floats of the engine hold integers up to 2^24.
_markers = count(1)
_MARKER_MAX = 2**24 - 1


class LlamacppReplica(EngineReplica):
    """One llama.cpp server behind a URL.

    Req: ORCH-4035, ORCH-4218
    """

    engine: ClassVar[str] = "llamacpp"
    offers: ClassVar[frozenset[Feature]] = OFFERS
    seed_limit: ClassVar[int] = SEED_LIMIT

    @staticmethod
    def sampler_words(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
        """Say a task's samplers in llama.cpp's words."""
        return sampler_params(spec, profile)

    async def health(self) -> bool:
        """Tell whether the model is loaded and the server answers."""
        answer = await request(self.endpoint, "GET", "/health", timeout_s=3.0)
        if answer.status not in {200, 503}:
            raise EngineError(f"{self.endpoint.url}/health: {explain(answer.status, answer.body)}")
        return answer.status == 200

    async def props(self) -> Props:
        """Read the server's properties.

        Errors: EngineError, also where the engine says that it is simulated and nobody allowed that.
        """
        props = self._read(await request(self.endpoint, "GET", "/props"), Props)
        self.refuse_simulated(props.simulated or "simulated" in props.build_info)
        return props

    async def properties(self) -> Properties:
        """Read the properties in the words of the self-test."""
        props = await self.props()
        digest = digest_of(PurePath(props.model_path).name, props.chat_template)
        ctx = props.default_generation_settings.n_ctx
        return Properties(props.total_slots, ctx, props.build_info or "unknown", digest)

    async def slots(self) -> list[Slot] | None:
        """Read the slots; None where the server does not show them."""
        answer = await request(self.endpoint, "GET", "/slots", timeout_s=SLOTS_TIMEOUT_S)
        if answer.status in {404, 501}:
            return None
        return self._read(answer, list[Slot])

    async def is_idle(self) -> bool | None:
        """Tell whether no slot works."""
        slots = await self.slots()
        return None if slots is None else not any(slot.is_processing for slot in slots)

    async def count_prompt(self, spec: TaskSpec) -> int | None:
        """Count with the engine's tokenizer, as `/completion` will."""
        if spec.messages is not None:
            text = await self.apply_template(spec.messages)
        elif spec.prompt is not None:
            text = spec.prompt
        else:
            return None
        body = msgspec.json.encode({"content": text, "add_special": True})
        return self._read(await request(self.endpoint, "POST", "/tokenize", body), Tokenized).count

    async def apply_template(self, messages: tuple[Message, ...]) -> str:
        """Render a chat with the model's own template.

        Errors: RefusedError where the template or the engine refuses, EngineError where no answer came.
        Req: ORCH-4036
        """
        body = msgspec.json.encode({"messages": messages})
        answer = await request(self.endpoint, "POST", "/apply-template", body, TEMPLATE_TIMEOUT_S)
        if answer.status == 200:
            return self._read(answer, Rendered).prompt
        # A template that raises (roles out of order, …) shows as 500, yet trying again cannot help.
        failure = "rejected" if answer.status == 500 else failure_of(answer.status)
        raise RefusedError(failure, f"chat template: {explain(answer.status, answer.body)}")

    async def template_bytes(self, messages: tuple[Message, ...]) -> int | None:
        """Measure a chat as the model's template renders it."""
        return len((await self.apply_template(messages)).encode())

    async def figures(self) -> Scrape:
        """Read how full the KV memory is, from the slots.

        Req: ORCH-4255
        """
        slots = await self.slots()
        room = sum(slot.n_ctx for slot in slots or ())
        if not slots or not room:
            return Scrape()
        held = sum(slot.n_prompt_tokens for slot in slots)
        return Scrape(min(1.0, held / room), cached_tokens=held if len(slots) == 1 else None)

    def result(self, spec: TaskSpec) -> Prepared:
        """Ask for vectors or ranks; the server does what it was launched for."""
        return result_request(
            spec, "/v1/embeddings" if spec.workload == "embedding" else "/v1/rerank", LlamacppReader()
        )

    def course(self, spec: TaskSpec, profile: str, cache_prompt: bool, said: str) -> Course:
        """Say how an attempt is made and ended. To go on from a text is to have it at the end of the prompt."""
        marker = next(_markers) % _MARKER_MAX + 1

        async def prepare() -> Prepared:
            return await self._prepare(spec, profile, cache_prompt, marker, said)

        async def settle(answered: bool) -> None:
            await self._until_idle(marker, answered)

        return Course(prepare, settle)

    async def _prepare(self, spec: TaskSpec, profile: str, cache_prompt: bool, marker: int, said: str) -> Prepared:
        params = self.sampler_words(spec, profile)
        guard = guard_of(spec.sampling)
        prompt = spec.prompt or "" if spec.messages is None else await self.apply_template(spec.messages)
        params |= {
            "prompt": prompt + said,
            "stream": True,
            "cache_prompt": cache_prompt,
            "return_tokens": False,
            # A server notices a closed connection when it writes, so it has to write while it reads the prompt.
            "return_progress": True,
            "timings_per_token": False,
            "response_fields": list(_WANTED),
            "mirostat_tau": float(marker),
        }
        return Prepared("/completion", msgspec.json.encode(params), LlamacppReader(), guard)

    async def _until_idle(self, marker: int, seen: bool) -> None:
        """Return when no slot works on the attempt, or the engine is dead.

        1. Busy with our marker: keep looking.
        2. Not busy, and it had been seen or had answered: it is over.
        3. Never seen: the request may still be on its way to a slot; it must stay unseen for a while from the first answer on.
        4. A server that hides its slots gets that same while. A silent one is asked again; a refused connection means it is dead.
        """
        loop = asyncio.get_running_loop()
        unseen_until_s = math.inf

        async def is_over() -> bool:
            nonlocal seen, unseen_until_s
            slots = await self.slots()
            unseen_until_s = min(unseen_until_s, loop.time() + UNSEEN_S)
            if slots is not None and any(_works_on(slot, marker) for slot in slots):
                seen = True
                return False
            return (seen and slots is not None) or loop.time() >= unseen_until_s

        await self.poll(is_over)

    def _read(self, answer: Answer, kind: type[T]) -> T:
        if answer.status != 200:
            raise EngineError(f"{self.endpoint.url}: {explain(answer.status, answer.body)}")
        return self.decoded(answer, kind)


def _works_on(slot: Slot, marker: int) -> bool:
    return slot.is_processing and (slot.params is None or slot.params.mirostat_tau in {float(marker), -1.0})
