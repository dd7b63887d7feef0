"""Simulated engine processes: the llama.cpp wire over the simulated network, each in a realm of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import cast

import msgspec

from orchqueue.adapters.engines.connection import Endpoint
from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.processes.healthy import await_healthy
from orchqueue.adapters.processes.host import SpawnedReplica
from orchqueue.adapters.processes.launched import Exit, LaunchedProcess
from orchqueue.core.ids import ReplicaId
from orchqueue.core.settings import PoolSettings
from orchqueue.ports.errors import ProcessError
from orchqueue.ports.process import OnExit
from orchqueue_sim import engine_text
from orchqueue_sim.engine_faults import Faults
from orchqueue_sim.engine_http import Script, SimSettings
from orchqueue_sim.engine_llamacpp import SimulatedLlamacpp
from orchqueue_sim.level2.inspector import Inspector, Work
from orchqueue_sim.level2.plan import Plan
from orchqueue_sim.level2.virtual_loop import Realm, VirtualLoop
from orchqueue_sim.marks import Chronicle

HOST = "127.0.0.1"
START_TIMEOUT_S = 10.0
BAD_MODEL = "file:bad"
VERSION, ODD_VERSION = "b1-simulated", "b2-simulated"


class Engine(SimulatedLlamacpp):
    """One engine's server; the seed decides what befalls each completion."""

    def __init__(self, stables: Stables, replica_id: ReplicaId, settings: SimSettings) -> None:
        super().__init__(settings, Faults(hide_slots=stables.plan.has("hidden_slots") and not stables.healing))
        self._cuts = Random(stables.rng.random())
        self._stables = stables
        self._replica_id = replica_id
        self._in_use = False
        self.deaf = False

    def _take_faults(self) -> Faults:
        # Whoever fails its self-test over and over meets no client: most faults wait until there is one.
        spared = not self._in_use and self._stables.rng.random() < 0.8
        return Faults() if spared else self._stables.draw_faults()

    def struck(self, fault: str) -> None:
        """Tell of a fault that has met somebody."""
        if not self._stables.healing:
            self._stables.chronicle.struck(fault, self._replica_id)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self.deaf:
            await asyncio.Event().wait()
        return await super()._exchange(reader, writer)

    async def _decode(self, writer: asyncio.StreamWriter, script: Script, faults: Faults) -> None:
        prompt = str(script.params["prompt"])
        of_client = "[w" in prompt
        self._in_use = self._in_use or of_client
        crooked = of_client and self._stables.distorts()
        if crooked:
            self.struck("diverging_engine")
            script = msgspec.structs.replace(script, output=distorted(script.output, self._cuts))
        answer = "".join(piece.text for piece in script.output.pieces)
        work = Work(prompt, int(script.params["n_predict"]), answer, script.output.tokens, crooked)
        self._stables.inspector.engine_got(self._replica_id, work, busy=self._free.locked())
        await super()._decode(writer, script, faults)


def distorted(output: engine_text.Output, rng: Random) -> engine_text.Output:
    """Change what an engine says: it goes wrong at some piece, says another one there, or stops before it."""
    pieces = output.pieces
    at = min(rng.randrange(max(1, len(pieces) // 2)) for _ in range(2))
    wrong = (engine_text.Piece(" ≠", 1),) if rng.random() < 0.7 else ()
    rest = pieces[at + 1 :] if wrong else ()
    changed = (*pieces[:at], *wrong, *rest)
    return output._replace(pieces=changed, tokens=max(1, sum(piece.tokens for piece in changed)))


class Process:
    """An engine's process as its launcher shows it: a stand-in for `LaunchedProcess`."""

    def __init__(self, stables: Stables, realm: Realm, engine: Engine, port: int) -> None:
        self.realm, self.engine, self.port = realm, engine, port
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._stables = stables

    def die(self, returncode: int, *, asked: bool = False) -> None:
        """End now."""
        if self.realm.dead:
            return
        self.realm.kill()
        self._stables.processes.pop(self, None)
        if not self.exited.done():
            self.exited.set_result(Exit(returncode, asked))

    def turn_zombie(self) -> None:
        """Be told dead while a child keeps the port and works on, until the launcher ends the whole group."""
        if not self.exited.done():
            self.exited.set_result(Exit(1, False))

    def tail(self) -> str:
        """Give the last words."""
        return ""

    async def stop(self) -> Exit:
        """End it as it was asked to; that takes a moment."""
        await asyncio.sleep(self._stables.rng.choice((0.0, 0.05, 1.0)))
        self.die(0, asked=True)
        return await self.exited


class Stables:
    """All engine processes of the run; they outlive a killed daemon until the next one ends them."""

    def __init__(self, plan: Plan, loop: VirtualLoop, rng: Random, inspector: Inspector, chronicle: Chronicle) -> None:
        self.plan, self.loop, self.rng, self.inspector = plan, loop, rng, inspector
        self.processes: dict[Process, None] = {}
        self.healing = False
        self.chronicle = chronicle
        self._clashes: dict[ReplicaId, int] = {}
        self._last_port = 9_000

    def end_leftovers(self) -> None:
        """End what a dead daemon left behind."""
        for process in tuple(self.processes):
            process.die(-9)

    def heal(self) -> None:
        """Let nothing fail any more; engines that are not like their siblings are taken away, as an operator would."""
        self.healing = True
        for process in tuple(self.processes):
            if process.engine.settings.version != VERSION or process.engine.faults.hide_slots:
                process.die(-15)

    def busy(self) -> list[str]:
        """List engines that still work on something."""
        return [f"{p.realm.name}: {p.engine.busy} busy" for p in self.processes if p.engine.busy]

    def draw_faults(self) -> Faults:
        """Draw what befalls one completion."""
        rng, has = self.rng, self.plan.has
        if self.healing or rng.random() > self.plan.fault_ratio:
            return Faults()
        faults = {name: draw for name, draw in _MISFORTUNES.items() if has(name)}
        if not faults:
            return Faults()
        name = rng.choice(sorted(faults))
        return faults[name](rng)

    def distorts(self) -> bool:
        """Draw whether a completion goes wrong in what it says."""
        return not self.healing and self.plan.has("diverging_engine") and self.rng.random() < 0.5

    async def start(self, pool: PoolSettings, replica_id: ReplicaId) -> Process:
        """Start a process and have it listen.

        Errors: ProcessError.
        """
        plan, rng = self.plan, self.rng
        await asyncio.sleep(rng.choice((0.0, 0.05, 0.5)))
        if not self.healing:
            await self._fail_start(replica_id)
        odd = not self.healing and plan.has("odd_version") and rng.random() < 0.3
        if odd:
            self.chronicle.struck("odd_version", replica_id)
        settings = SimSettings(
            slots=pool.slots,
            ctx=pool.ctx,
            tokens_per_s=1000 / plan.token_ms,
            version=ODD_VERSION if odd else VERSION,
            loading_ms=rng.choice((0, 0, 300)),
        )
        self._last_port += 1
        port, realm = self._last_port, Realm(self.loop, f"{replica_id} on port {self._last_port}")

        async def serve() -> Engine:
            engine = Engine(self, replica_id, settings)
            await engine.serve(HOST, port)
            return engine

        engine = await realm.begin(serve())
        process = Process(self, realm, engine, port)
        self.processes[process] = None
        return process

    async def _fail_start(self, replica_id: ReplicaId) -> None:
        plan, rng = self.plan, self.rng
        clashes = self._clashes.get(replica_id, 0)
        if plan.has("port_clash") and (clashes == 1 or (not clashes and rng.random() < 0.5)):
            # Whoever holds the port lets go after a second try.
            self._clashes[replica_id] = clashes + 1
            self.chronicle.struck("port_clash", replica_id)
            raise ProcessError("exit", "the engine ended while it started: the address is in use")
        if plan.has("never_ready") and rng.random() < 0.3:
            self.chronicle.struck("never_ready", replica_id)
            await asyncio.sleep(START_TIMEOUT_S)
            raise ProcessError("never_ready", f"the engine was not ready within {START_TIMEOUT_S:g} s")
        if plan.has("failing_start") and rng.random() < 0.4:
            self.chronicle.struck("failing_start", replica_id)
            raise ProcessError("exit", "the engine ended while it started: no such device")

    def zombify_one(self) -> None:
        """Let some process be told dead and work on, one that is busy where there is one."""
        living = [p for p in self.processes if not p.exited.done()]
        if living and not self.healing:
            process = self.rng.choice([p for p in living if p.engine.busy] or living)
            self.chronicle.struck("zombie", f"{process.realm.name} is told dead and works on")
            process.turn_zombie()

    def crash_one(self) -> None:
        """Kill some process."""
        if self.processes and not self.healing:
            process = self.rng.choice([p for p in self.processes if p.engine.busy] or list(self.processes))
            self.chronicle.struck("engine_killed", process.realm.name)
            process.die(self.rng.choice((-9, -11, 1)))

    def deafen_one(self) -> None:
        """Let some process live on and answer nobody."""
        if self.processes and not self.healing:
            process = self.rng.choice(list(self.processes))
            self.chronicle.struck("engine_deaf", f"{process.realm.name} answers nobody from now on")
            process.engine.deaf = True


class Host:
    """Brings up a pool's replicas. Implements `ports.process.ReplicaHost` over the real adapter and its health watch."""

    def __init__(self, stables: Stables, pool: PoolSettings) -> None:
        self._stables, self._pool = stables, pool

    async def verify_model(self, model_ref: str) -> str:
        """Find every model right but those called bad.

        Errors: ProcessError.
        """
        await asyncio.sleep(self._stables.rng.choice((0.0, 0.1)))
        if model_ref == BAD_MODEL:
            raise ProcessError("never_ready", f"the checksum of {model_ref} is wrong")
        return f"digest of {model_ref}"

    async def launch(self, replica_id: ReplicaId, model_ref: str, on_exit: OnExit) -> SpawnedReplica:
        """Start a replica's process and see it healthy.

        Errors: ProcessError.
        """
        process = await self._stables.start(self._pool, replica_id)
        try:
            description = Description(
                None, f"digest of {model_ref}", 16, process.port, self._pool.strict, self._pool.ctx
            )
            replica = LlamacppReplica(Endpoint(HOST, process.port), description, allow_simulated=True)
            await await_healthy(replica, START_TIMEOUT_S)
        except BaseException:
            await asyncio.shield(process.stop())
            raise
        return SpawnedReplica(cast("LaunchedProcess", process), replica, on_exit, 3.0, 0)


_MISFORTUNES: dict[str, Callable[[Random], Faults]] = {
    "slow_first_token": lambda rng: Faults(first_token_delay_ms=rng.choice((50, 500, 3_000))),
    "silence": lambda rng: Faults(silent_after=rng.choice((1, 2, 5))),
    "early_eof": lambda rng: Faults(eof_after=rng.choice((1, 2, 5, 12))),
    "engine_error": lambda rng: Faults(error_after=rng.choice((1, 2, 5))),
    "engine_500": lambda _rng: Faults(status=500),
    "overloaded": lambda rng: Faults(status=rng.choice((429, 503))),
    "rejected": lambda _rng: Faults(status=400),
    "broken_utf8": lambda rng: Faults(broken_utf8_after=rng.choice((1, 4))),
    "broken_json": lambda rng: Faults(broken_json_after=rng.choice((1, 4))),
    "split_frames": lambda _rng: Faults(split_frames=True),
    "ignored_abort": lambda rng: Faults(ignore_abort_ms=rng.choice((20, 700))),
    "late_close": lambda rng: Faults(late_close_ms=rng.choice((30, 900))),
    "double_close": lambda _rng: Faults(double_close=True),
    "late_to_slot": lambda rng: Faults(queue_ms=rng.choice((5, 100))),
}
