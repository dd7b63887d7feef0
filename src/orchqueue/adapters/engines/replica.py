"""What every engine behind a URL shares: its attempts, and their end. One subclass for each engine.

Req: ORCH-4212
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ClassVar, TypeVar

import msgspec

from orchqueue.adapters.engines.attempt import EngineAttempt, Prepare, Prepared, Settle
from orchqueue.adapters.engines.connection import Answer, Endpoint, request
from orchqueue.adapters.engines.sampling import Feature, JsonValue, UnservableError
from orchqueue.adapters.engines.selftest import Description, Properties, run_self_test
from orchqueue.core.events import DeviceFigures, ReplicaFacts
from orchqueue.core.request import Message, TaskSpec
from orchqueue.ports.engine import AttemptSink, Scrape
from orchqueue.ports.errors import EngineError

T = TypeVar("T")
ReadDevices = Callable[[], Awaitable[tuple[DeviceFigures, ...]]]

HEALTH_TIMEOUT_S = 3.0
RESULT_WITHIN_S = 5.0
POLL_FIRST_S = 0.005
POLL_MAX_S = 0.05


class Course(msgspec.Struct, frozen=True):
    """How one attempt is made and how its end is seen."""

    prepare: Prepare
    settle: Settle


class EngineReplica(ABC):
    """One engine's endpoint. Implements `ports.engine.Replica`.

    `engine`, `offers`: the engine's name and what it can do beyond sampling. `seed_limit`: it takes seeds from 0 to one less.
    `read_devices`: reads the devices that it runs on.
    """

    engine: ClassVar[str]
    offers: ClassVar[frozenset[Feature]]
    seed_limit: ClassVar[int]

    def __init__(
        self, endpoint: Endpoint, description: Description | None = None, *, allow_simulated: bool = False,
        read_devices: ReadDevices | None = None,
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self.description = description or Description()
        self._allow_simulated = allow_simulated
        self._read_devices = read_devices
        self._attempts: set[EngineAttempt] = set()
        self._gone = False

    @staticmethod
    @abstractmethod
    def sampler_words(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
        """Say a task's samplers in the engine's words.

        Errors: UnservableError that names what the engine cannot do.
        """

    @abstractmethod
    async def health(self) -> bool:
        """Tell whether the engine is up and loaded; False while it loads."""

    @abstractmethod
    async def properties(self) -> Properties:
        """Ask the server what it is.

        Errors: EngineError, also where it is simulated and nobody allowed that.
        """

    @abstractmethod
    async def is_idle(self) -> bool | None:
        """Tell whether the engine works on nothing at all; None where it does not show it."""

    @abstractmethod
    async def count_prompt(self, spec: TaskSpec) -> int | None:
        """Count the prompt's tokens as the engine will; None where it cannot."""

    @abstractmethod
    def course(self, spec: TaskSpec, profile: str, cache_prompt: bool, said: str) -> Course:
        """Say how an attempt is made and ended; `said`: go on from this text."""

    @abstractmethod
    async def figures(self) -> Scrape:
        """Read the engine's own metrics, without those of its devices."""

    async def scrape(self) -> Scrape:
        """Read the engine's own metrics and what its devices do."""
        devices = await self._read_devices() if self._read_devices is not None else ()
        return msgspec.structs.replace(await self.figures(), devices=devices)

    async def template_bytes(self, messages: tuple[Message, ...]) -> int | None:
        """Measure a chat as the engine's template renders it, in bytes; None where the engine does not show it.

        Errors: EngineError where the template refuses.
        """
        del messages
        return None

    async def self_test(self) -> ReplicaFacts:
        """Read properties and prove the replica.

        Req: ORCH-3003
        """
        return await run_self_test(self)

    def start(
        self, spec: TaskSpec, profile: str, cache_prompt: bool, sink: AttemptSink, said: str = ""
    ) -> EngineAttempt:
        """Begin an attempt; see `EngineAttempt`.

        Req: ORCH-4178
        """
        course = self.course(spec, profile, cache_prompt, said)
        if spec.workload != "completion":
            course = Course(partial(self._prepare_result, spec), self._result_settled)
        attempt = EngineAttempt(self.endpoint, sink, course.prepare, course.settle, self._attempts.discard)
        self._attempts.add(attempt)
        return attempt

    async def evict_session(self, session: str) -> None:
        """Do nothing: no engine here can forget one session, and its next prompt replaces it."""
        del session

    async def close(self) -> None:
        """End what runs: every attempt gets `closed`."""
        self._gone = True
        for attempt in tuple(self._attempts):
            attempt.drop()

    async def answers(self, path: str) -> int:
        """Ask a health route for its status."""
        return (await request(self.endpoint, "GET", path, timeout_s=HEALTH_TIMEOUT_S)).status

    def decoded(self, answer: Answer, kind: type[T]) -> T:
        """Read the JSON of an answer.

        Errors: EngineError where it is none of its kind.
        """
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineError(f"{self.endpoint.url} answered something else than {self.engine}: {error}") from error

    def refuse_simulated(self, simulated: bool) -> None:
        """Refuse a simulated engine, unless it is allowed.

        Errors: EngineError.
        Req: ORCH-4035
        """
        if simulated and not self._allow_simulated:
            raise EngineError(
                f"{self.endpoint.url} is a simulated engine; its text means nothing. Set launch.allow_simulated to use it in tests"
            )

    def result(self, spec: TaskSpec) -> Prepared:
        """Make the request of an embedding or a ranking, where the engine offers it."""
        raise UnservableError(f"{self.engine} serves completions only, and no {spec.workload}")

    async def _prepare_result(self, spec: TaskSpec) -> Prepared:
        if spec.workload not in self.offers:
            raise UnservableError(f"{self.engine} does not offer {spec.workload}")
        if spec.workload not in self.description.workloads:
            raise UnservableError(f"this pool serves {', '.join(self.description.workloads)}, and no {spec.workload}")
        return self.result(spec)

    async def _result_settled(self, answered: bool) -> None:
        """Return when the engine works on nothing: one request of these is not told from another, and each is short."""
        del answered
        loop = asyncio.get_running_loop()
        until_s = loop.time() + RESULT_WITHIN_S

        async def is_over() -> bool:
            return await self.is_idle() is True or loop.time() >= until_s

        await self.poll(is_over)

    async def poll(self, is_over: Callable[[], Awaitable[bool]]) -> None:
        """Ask again and again, ever more slowly, until it is over or the engine is gone.

        A silent engine is asked again; a refused connection means that it is dead.
        """
        pause_s = POLL_FIRST_S
        while not self._gone:
            try:
                if await is_over():
                    return
            except EngineError as error:
                if isinstance(error.__cause__, ConnectionError):
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(POLL_MAX_S, pause_s * 1.5)
