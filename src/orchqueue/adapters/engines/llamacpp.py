"""llama.cpp's own server as a replica.

Prompts: `/completion` reads special tokens out of the prompt text, so a raw prompt may hold them on purpose. `messages` go through the
model's own template and then the same way; a message that contains the text of a special token is read as that token, as it is by
the engine's own chat route. Text is passed as UTF-8 JSON; NUL characters reach the tokenizer (checked against the real engine).

Req: ORCH-3045, ORCH-3017
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

import msgspec

from orchqueue.adapters.engines.connection import Answer, Endpoint, request
from orchqueue.adapters.engines.llamacpp_attempt import LlamacppAttempt, Prepared, RefusedError
from orchqueue.adapters.engines.llamacpp_messages import (
    Props,
    Rendered,
    Slot,
    Tokenized,
    explain,
    failure_of,
)
from orchqueue.adapters.engines.profiles import JsonValue, UnservableError, sampler_params
from orchqueue.adapters.engines.schema_guard import guard_of
from orchqueue.adapters.engines.selftest import Description, run_self_test
from orchqueue.core.events import DeviceFigures, ReplicaFacts
from orchqueue.core.request import Message, TaskSpec
from orchqueue.ports.engine import AttemptSink, Scrape
from orchqueue.ports.errors import EngineError

T = TypeVar("T")
ReadDevices = Callable[[], Awaitable[tuple[DeviceFigures, ...]]]

TEMPLATE_TIMEOUT_S = 10.0
SLOTS_TIMEOUT_S = 2.0
POLL_FIRST_S = 0.005
POLL_MAX_S = 0.05
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


class LlamacppReplica:
    """One llama.cpp server behind a URL. Implements `ports.engine.Replica`.

    Req: ORCH-4035, ORCH-4218
    """

    def __init__(
        self, endpoint: Endpoint, description: Description | None = None, *, allow_simulated: bool = False,
        read_devices: ReadDevices | None = None,
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self.description = description or Description()
        self._allow_simulated = allow_simulated
        self._read_devices = read_devices
        self._attempts: set[LlamacppAttempt] = set()
        self._gone = False

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
        if (props.simulated or "simulated" in props.build_info) and not self._allow_simulated:
            raise EngineError(
                f"{self.endpoint.url} is a simulated engine; its text means nothing. Set launch.allow_simulated to use it in tests"
            )
        return props

    async def slots(self) -> list[Slot] | None:
        """Read the slots; None where the server does not show them."""
        answer = await request(self.endpoint, "GET", "/slots", timeout_s=SLOTS_TIMEOUT_S)
        if answer.status in {404, 501}:
            return None
        return self._read(answer, list[Slot])

    async def self_test(self) -> ReplicaFacts:
        """Read properties and prove the replica.

        Req: ORCH-3003
        """
        return await run_self_test(self)

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

    async def scrape(self) -> Scrape:
        """Read how full the KV memory is, from the slots, and what the devices do."""
        devices = await self._read_devices() if self._read_devices is not None else ()
        slots = await self.slots()
        room = sum(slot.n_ctx for slot in slots or ())
        if not slots or not room:
            return Scrape(devices=devices)
        return Scrape(min(1.0, sum(slot.n_prompt_tokens for slot in slots) / room), devices)

    def start(
        self, spec: TaskSpec, profile: str, cache_prompt: bool, sink: AttemptSink, said: str = ""
    ) -> LlamacppAttempt:
        """Begin an attempt; see `LlamacppAttempt`. To go on from a text is to have it at the end of the prompt.

        Req: ORCH-4178
        """
        marker = next(_markers) % _MARKER_MAX + 1

        async def prepare() -> Prepared:
            return await self._body(spec, profile, cache_prompt, marker, said)

        async def settle(answered: bool) -> None:
            await self._until_idle(marker, answered)

        attempt = LlamacppAttempt(self.endpoint, sink, prepare, settle, self._attempts.discard)
        self._attempts.add(attempt)
        return attempt

    async def evict_session(self, session: str) -> None:
        """Do nothing: the server cannot forget one session, and its next prompt replaces it."""
        del session

    async def close(self) -> None:
        """End what runs: every attempt gets `closed`."""
        self._gone = True
        for attempt in tuple(self._attempts):
            attempt.drop()

    async def _body(self, spec: TaskSpec, profile: str, cache_prompt: bool, marker: int, said: str) -> Prepared:
        params: dict[str, JsonValue] = sampler_params(spec, profile)
        guard = guard_of(spec.sampling)
        if spec.messages is not None:
            prompt = await self.apply_template(spec.messages)
        elif spec.prompt is not None:
            prompt = spec.prompt
        else:
            raise UnservableError("llama.cpp serves completions of a prompt or messages only")
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
        return Prepared(msgspec.json.encode(params), guard)

    async def _until_idle(self, marker: int, seen: bool) -> None:
        """Return when no slot works on the attempt, or the engine is dead.

        1. Busy with our marker: keep looking.
        2. Not busy, and it had been seen or had answered: it is over.
        3. Never seen: the request may still be on its way to a slot; it must stay unseen for a while.
        4. A server that hides its slots gets that same while. A silent one is asked again; a refused connection means it is dead.
        """
        loop = asyncio.get_running_loop()
        unseen_until_s = loop.time() + UNSEEN_S
        pause_s = POLL_FIRST_S
        while not self._gone:
            try:
                slots = await self.slots()
            except EngineError as error:
                if isinstance(error.__cause__, ConnectionError):
                    return
                slots = [Slot(is_processing=True)]
            if slots is not None and any(_works_on(slot, marker) for slot in slots):
                seen = True
            elif (seen and slots is not None) or loop.time() >= unseen_until_s:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(POLL_MAX_S, pause_s * 1.5)

    def _read(self, answer: Answer, kind: type[T]) -> T:
        if answer.status != 200:
            raise EngineError(f"{self.endpoint.url}: {explain(answer.status, answer.body)}")
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineError(f"{self.endpoint.url} answered something else than llama.cpp: {error}") from error


def _works_on(slot: Slot, marker: int) -> bool:
    return slot.is_processing and (slot.params is None or slot.params.mirostat_tau in {float(marker), -1.0})
