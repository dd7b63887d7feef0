"""What a replica must show before it may serve.

Decoding one prompt twice proves nothing: equal prompts stay equal under batching and prompt-cache reuse, which make different ones
differ. So A, B, A, C, A of mixed lengths are decoded, and the A's must be equal.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Protocol

import msgspec

from orchqueue.adapters.engines.connection import Endpoint
from orchqueue.adapters.engines.sampling import Feature
from orchqueue.core.events import AttemptFailure, ReplicaFacts
from orchqueue.core.request import Message, Sampling, TaskSpec, Workload
from orchqueue.ports.engine import AttemptHandle, AttemptSink, Completion
from orchqueue.ports.errors import EngineError

STEP_TIMEOUT_S = 120.0
TEMPLATE_UNKNOWN_BYTES = 1 << 20
_NO_EOS = Sampling(ignore_eos=True)
"""Asked for where the engine offers it; elsewhere a decode may end before its limit."""
_A = TaskSpec(prompt="The ferry left the harbour at dawn and", seed=1001, max_tokens=10, sampling=_NO_EOS)
_B = TaskSpec(
    prompt="List of things to bring: a rope, two lamps, bread, salt, a map of the coast, dry socks, a knife and a kettle. "
    * 2,
    seed=1002,
    max_tokens=4,
    sampling=_NO_EOS,
)
_C = TaskSpec(prompt="Zwölf Boxkämpfer jagen Viktor quer über 🌍", seed=1003, max_tokens=6, sampling=_NO_EOS)
_ENDLESS = TaskSpec(prompt="Once upon a time", seed=1004, max_tokens=200, sampling=_NO_EOS)


class Description(msgspec.Struct, frozen=True):
    """What we know of a replica better than its server does; None: ask the server.

    `strict`: the pool wants strict tasks served, so the proof is tried. `ctx`: tokens that the pool promises for one task, 0 for
    no promise. `slots`: tasks that the pool sends at once, for an engine that does not tell. `model_ref`, `workloads`: what the pool
    serves.
    """

    engine_version: str | None = None
    model_digest: str | None = None
    kv_bytes_per_token: int = 0
    pid: int | None = None
    strict: bool = True
    ctx: int = 0
    slots: int = 1
    model_ref: str = ""
    workloads: tuple[Workload, ...] = ("completion",)


class Properties(msgspec.Struct, frozen=True):
    """What a server says of itself. `not_strict`: why it says that its texts may differ; empty where it does not.

    Units: `ctx` is tokens for each slot.
    """

    slots_total: int
    ctx: int
    engine_version: str
    model_digest: str
    not_strict: str = ""


class Testable(Protocol):
    """What the self-test asks of a replica."""

    @property
    def endpoint(self) -> Endpoint:
        """Say where it listens."""
        ...

    @property
    def description(self) -> Description:
        """Say what is known of it already."""
        ...

    @property
    def offers(self) -> frozenset[Feature]:
        """Say what the engine can do beyond sampling."""
        ...

    async def properties(self) -> Properties:
        """Ask the server what it is."""
        ...

    async def is_idle(self) -> bool | None:
        """Tell whether it works on nothing at all; None where it does not show it."""
        ...

    async def template_bytes(self, messages: tuple[Message, ...]) -> int | None:
        """Measure a rendered chat in bytes; None where that is not shown."""
        ...

    def start(self, spec: TaskSpec, profile: str, cache_prompt: bool, sink: AttemptSink) -> AttemptHandle:
        """Begin an attempt."""
        ...


class _Run:
    """Collects one decode; can abort it at its first text."""

    def __init__(self, abort_at_first: bool = False) -> None:
        self.text = ""
        self.completion: Completion | None = None
        self.failure: tuple[AttemptFailure, str] | None = None
        self.handle: AttemptHandle | None = None
        self.closed_event = asyncio.Event()
        self._abort_at_first = abort_at_first

    def chunks(self, texts: tuple[str, ...], tokens_out: int) -> None:
        """Take text."""
        del tokens_out
        self.text += "".join(texts)
        if self._abort_at_first and self.handle is not None:
            self.handle.abort()

    def completed(self, completion: Completion) -> None:
        """Take the end."""
        self.completion = completion

    def failed(self, failure: AttemptFailure, detail: str) -> None:
        """Take a failure."""
        self.failure = (failure, detail)

    def closed(self) -> None:
        """Take the close."""
        self.closed_event.set()


async def run_self_test(replica: Testable) -> ReplicaFacts:
    """Read properties, prove what can be proven, measure rates.

    1. One slot and strict wanted: A, B, A, C, A; else one decode.
    2. The engine's token counter must have moved with every decode.
    3. A decode aborted at its first text must leave its slot.

    Errors: EngineError when a decode fails or an abort does not free the slot.
    Req: ORCH-3003, ORCH-4135, ORCH-4137
    """
    props, described = await replica.properties(), replica.description
    if props.ctx < described.ctx:
        raise EngineError(
            f"{replica.endpoint.url} has {props.ctx} tokens for each slot, but the pool promises {described.ctx}; lower the"
            " pool's ctx, or launch the engine with more"
        )
    candidate = props.slots_total == 1 and described.strict and not props.not_strict
    a, b, c = _trials(described.workloads[0])
    specs = (a, b, a, c, a) if candidate else (b,)
    runs = [await _decode(replica, spec) for spec in specs]
    answers = {run.text for run, spec in zip(runs, specs, strict=True) if spec is a}
    idle_shown = (
        await _prove_abort(replica) if "completion" in described.workloads else await replica.is_idle() is not None
    )
    note = props.not_strict
    if candidate and len(answers) != 1:
        note = f"the same prompt and seed gave {len(answers)} different texts"
    elif candidate and not idle_shown:
        note = "the server does not show its slots, so an abort cannot be confirmed"
    prefill_us, decode_us = _rates(runs)
    fixed, per_message = await measure_template(replica) if "completion" in described.workloads else (0, 0)
    return ReplicaFacts(
        engine_version=described.engine_version or props.engine_version,
        model_digest=described.model_digest or props.model_digest,
        slots_total=props.slots_total,
        ctx=props.ctx,
        strict_proven=candidate and not note,
        prefill_us_per_token=prefill_us,
        decode_us_per_token=decode_us,
        kv_bytes_per_token=described.kv_bytes_per_token,
        template_fixed_bytes=fixed,
        template_message_bytes=per_message,
        url=replica.endpoint.url,
        pid=described.pid,
        selftest_note=note,
        can_continue="continuation" in replica.offers,
        known_answer=sha256(min(answers).encode()).hexdigest() if candidate and not note else "",
    )


def digest_of(*said: str) -> str:
    """Make a stand-in for the digest of a model whose file we cannot read, of what the server says of it.

    Shape: 64 hex digits.
    """
    return sha256(msgspec.json.encode(said)).hexdigest()


def _trials(workload: Workload) -> tuple[TaskSpec, TaskSpec, TaskSpec]:
    """Give three tasks of mixed lengths in the words of a workload."""
    if workload == "completion":
        return _A, _B, _C
    query = (_A.prompt or "",) if workload == "rerank" else ()
    a, b, c = (
        TaskSpec(inputs=(*query, spec.prompt or ""), workload=workload, seed=spec.seed, max_tokens=1)
        for spec in (_A, _B, _C)
    )
    return a, b, c


async def _decode(replica: Testable, spec: TaskSpec) -> _Run:
    run = await _finish(replica, spec, _Run())
    completion = run.completion
    if completion is None:
        raise EngineError(f"self-test on {replica.endpoint.url} failed: {run.failure}")
    at_least = 0 if spec.inputs is not None else spec.max_tokens if "ignore_eos" in replica.offers else 1
    if not at_least <= completion.tokens_out <= spec.max_tokens or completion.tokens_in < 1:
        raise EngineError(
            f"self-test on {replica.endpoint.url}: asked for {spec.max_tokens} tokens, the engine counted {completion.tokens_out}"
            f" (prompt {completion.tokens_in})"
        )
    return run


async def _prove_abort(replica: Testable) -> bool:
    """Abort a decode and see it gone; tell whether the server shows what it works on at all."""
    run = await _finish(replica, _ENDLESS, _Run(abort_at_first=True))
    if run.failure is not None:
        raise EngineError(f"self-test on {replica.endpoint.url}: a decode to be aborted failed: {run.failure}")
    if run.completion is not None:
        raise EngineError(f"self-test on {replica.endpoint.url}: an aborted decode ran to its end")
    return await replica.is_idle() is not None


async def _finish(replica: Testable, spec: TaskSpec, run: _Run) -> _Run:
    if "ignore_eos" not in replica.offers or spec.inputs is not None:
        spec = msgspec.structs.replace(spec, sampling=Sampling())
    run.handle = replica.start(spec, "v1", False, run)
    try:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            await run.closed_event.wait()
    except TimeoutError as error:
        run.handle.abort()
        raise EngineError(f"self-test on {replica.endpoint.url}: no end within {STEP_TIMEOUT_S:g} s") from error
    return run


def _rates(runs: list[_Run]) -> tuple[int, int]:
    ended = [run.completion for run in runs if run.completion is not None]
    prefilled = sum(c.tokens_in - c.cached_tokens for c in ended)
    decoded = sum(c.tokens_out for c in ended)
    prefill_us = 1000 * sum(c.prefill_ms for c in ended) // max(1, prefilled)
    decode_us = 1000 * sum(c.decode_ms for c in ended) // max(1, decoded)
    return max(1, prefill_us), max(1, decode_us)


async def measure_template(replica: Testable) -> tuple[int, int]:
    """Bound the bytes that the chat template adds: once, and for each message.

    Cost: four small requests.
    """
    short, long = ("user",), ("user", "assistant", "user")
    added: dict[tuple[str, ...], int] = {}
    for roles in (short, long, ("system", *short), ("system", *long)):
        messages = tuple(Message(role, "x") for role in roles)
        try:
            size = await replica.template_bytes(messages)
        except EngineError:
            continue
        if size is None:
            break
        added[roles] = size - sum(len(message.role) + len(message.content) for message in messages)
    if short not in added:
        return TEMPLATE_UNKNOWN_BYTES, TEMPLATE_UNKNOWN_BYTES
    steps = [-(-(more - added[roles[:-2]]) // 2) for roles, more in added.items() if roles[:-2] in added]
    per_message = max([0, *steps])
    return max(0, *(total - len(roles) * per_message for roles, total in added.items())), per_message
