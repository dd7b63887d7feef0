"""One whole run: safety first, with everything failing that the plan says; then everything heals and nothing may be owed.

Req: ORCH-4011, ORCH-4013
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

import msgspec

from orchqueue.core import events as ev
from orchqueue_sim.agenda import BEGIN_MS, Agenda
from orchqueue_sim.auditor import Auditor, Violation
from orchqueue_sim.bookkeeper import compare_usage
from orchqueue_sim.conduct import Conduct
from orchqueue_sim.crowd import Crowd
from orchqueue_sim.disk import Disk
from orchqueue_sim.fleet import Fleet
from orchqueue_sim.level2.plan import Plan as Level2Plan
from orchqueue_sim.life import Life
from orchqueue_sim.marks import Chronicle, Trace, watching
from orchqueue_sim.operators import Operators
from orchqueue_sim.order import Order
from orchqueue_sim.plan import Plan, draw
from orchqueue_sim.trial import Trial
from orchqueue_sim.turns import Turns

STEPS_AT_MOST = 60_000
BAD_DISKS = (
    ("failing_disk", "input/output error", (20, 300, 3_000)),
    ("full_disk", "no space left on the disk", (2_000, 15_000)),
)
DOOMS = ("crash_before_commit", "crash_after_commit", "torn_tail")


class Report(msgspec.Struct):
    """What became of a run; `problem` is empty when every promise was kept."""

    plan: Plan | Level2Plan
    problem: str = ""
    steps: int = 0
    lives: int = 1
    virtual_ms: int = 0
    refused: int = 0
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    marks: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """Tell what went wrong, first how to see it again."""
        seed, faults = self.plan.seed, ", ".join(sorted(self.plan.faults)) or "none"
        level = "LEVEL=2 " if isinstance(self.plan, Level2Plan) else ""
        return f"seed {seed}; faults: {faults}; replay: make sim-replay {level}SEED={seed}\n{self.problem}"


class World:
    """Everything of one run."""

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        self.plan = plan
        self._rng = Random(f"world {plan.seed}")
        self.agenda = Agenda(self._rng)
        self.disk = Disk()
        self.chronicle = Chronicle(lambda: self.agenda.now_ms, trace)
        order = Order(plan.settings)
        conduct, trial = Conduct(plan.settings, order), Trial(plan.settings)
        self.audit = Auditor(self.disk, order, Turns(plan.settings.sessions), conduct, trial)
        self.crowd = Crowd(plan, self.agenda, self._rng, lambda: self.life, self.chronicle)
        self.operators = Operators(plan, self.agenda, self._rng, lambda: self.life, self.chronicle)
        self._traced = trace is not None
        self._healing = False
        self._trouble: list[tuple[int, int, str, str]] = []
        self._dooms: list[str] = []
        self._wall_offset_ms = 0
        self.lives = 0
        self.life: Life | None = None
        self.fleet: Fleet | None = None

    def run(self) -> int:
        """Run until nothing is left to happen.

        Shape: the number of steps.
        Errors: Violation.
        """
        self._plan_disasters()
        self.crowd.begin()
        self.operators.begin()
        self._boot()
        self.agenda.after(self.plan.span_ms, self._heal)
        for steps in range(STEPS_AT_MOST):
            if not self.agenda.step():
                self._settled()
                return steps
        raise Violation(f"nothing settles within {STEPS_AT_MOST} steps")

    def _plan_disasters(self) -> None:
        rng = self._rng
        for fault, reason, lengths_ms in BAD_DISKS:
            if self.plan.has(fault):
                for _ in range(rng.choice((1, 3))):
                    begin = BEGIN_MS + self._bad_moment_ms()
                    self._trouble.append((begin, begin + rng.choice(lengths_ms), fault, reason))
        for fault in DOOMS:
            if self.plan.has(fault):
                self.agenda.after(self._bad_moment_ms(), partial(self._dooms.append, fault))
        happen: dict[str, Callable[[], None]] = {
            "daemon_crash": partial(self._crash, "daemon_crash"),
            "clock_pause": self._pause,
            "wall_jump": self._jump,
            "shutdown": self._begin_shutdown,
        }
        for fault, act in happen.items():
            if self.plan.has(fault):
                for _ in range(1 if fault == "shutdown" else rng.choice((1, 1, 3))):
                    self.agenda.after(self._bad_moment_ms(), act)

    def _bad_moment_ms(self) -> int:
        if self._rng.random() < 0.5:
            return self.plan.peak_ms + self._rng.randint(0, 100)
        return self._rng.randint(0, self.plan.span_ms)

    def _disk_trouble(self) -> tuple[str, str]:
        if self._healing:
            return "", ""
        now_ms = self.agenda.now_ms
        return next(((fault, why) for a, b, fault, why in self._trouble if a <= now_ms < b), ("", ""))

    def _doom(self, records: int) -> str:
        """Name the crash that this commit meets, if one is due; only what has several records can be torn."""
        if self._healing:
            return ""
        due = next((fault for fault in self._dooms if fault != "torn_tail" or records > 1), "")
        if due:
            self._dooms.remove(due)
        return due

    def _boot(self) -> None:
        self.lives += 1
        chronicle = self.chronicle
        life = Life(self.plan, self.agenda, self._rng, self.disk, self.audit, chronicle)
        life.wall_offset_ms = self._wall_offset_ms
        life.writer.trouble, life.writer.doom, life.writer.on_doom = self._disk_trouble, self._doom, self._crash
        fleet = Fleet(self.plan, self.agenda, self._rng, self.audit, life.handle, chronicle)
        fleet.healing = self._healing
        life.engines = fleet
        life.on_reply, life.on_stage = self.crowd.on_reply, self.crowd.on_stage
        chronicle.tell("boot", f"life {self.lives}")
        if self._traced:
            life.trace = chronicle.tell
        self.life, self.fleet = life, fleet
        life.boot()

    def _crash(self, fault: str) -> None:
        life = self.life
        if life is None:
            return
        self.chronicle.struck(fault, "kill -9 of the daemon")
        life.check()
        life.crash()
        self._after_life()

    def _pause(self) -> None:
        """Stop the machine for a while: when it goes on, its clock has moved and everything is late."""
        lasts_ms = self._rng.choice((400, 5_000, 70_000))
        self.chronicle.struck("clock_pause", f"everything stands still for {lasts_ms} ms")
        self.agenda.stand_still(lasts_ms)
        if self.life is not None:
            self.audit.paused(self.life.now_ms)

    def _jump(self) -> None:
        """Set the wall clock and kill the daemon: only its next life reads it."""
        self._wall_offset_ms += self._rng.choice((-3_600_000, -2_000, 2_000, 3_600_000))
        if self.life is not None:
            self._crash("wall_jump")

    def _begin_shutdown(self) -> None:
        life = self.life
        if life is None:
            return
        self.chronicle.struck("shutdown", "the daemon is asked to stop")
        life.handle(ev.ShutdownBegan())
        self.agenda.after(self._rng.choice((0, 100, 2_000)), lambda: self._shut_down(life))

    def _shut_down(self, life: Life) -> None:
        if life is self.life:
            life.stop()
            self._after_life()

    def _after_life(self) -> None:
        if self.fleet is not None:
            self.fleet.end()
        self.life = self.fleet = None
        self.crowd.disconnected()
        self.audit.life_over()
        self.audit.after_crash()
        self.agenda.after(self._rng.choice((0, 50, 500)), self._boot)

    def _heal(self) -> None:
        self._healing = True
        self.chronicle.tell("heal", "no more faults")
        if self.fleet is not None:
            self.fleet.heal()

    def _settled(self) -> None:
        """Demand that nothing is owed and nothing left running."""
        self.audit.settled()
        life, fleet = self.life, self.fleet
        assert life is not None
        assert fleet is not None
        life.check()
        state = life.core.state
        left = {
            "tasks": list(state.tasks),
            "attempts": list(state.attempts),
            "sessions": len(state.sessions),
            "reservations": life.books.left(),
            "retained bytes": state.retained_bytes,
            "engine runs": list(fleet.runs),
            "timers": list(life.timers),
            "stream logs": list(life.texts),
            "journal entries": list(self.disk.accepted),
            "replicas that are not ready": [
                r.replica_id for r in state.replicas.values() if not (r.ready or state.pool_of(r).asleep)
            ],
            "pools in motion": [p.pool_id for p in state.pools.values() if p.mode not in ("serving", "drained")],
        }
        for what, found in left.items():
            if found:
                raise Violation(f"left in the end: {what}: {found}")
        wrong = compare_usage(state.usage, self.disk.usage)
        if wrong:
            raise Violation(wrong)
        self.audit.life_over()


def run(seed: int, trace: Trace | None = None, plan: Plan | None = None) -> Report:
    """Run one seed; whatever goes wrong stands in the report.

    Req: ORCH-4237
    """
    plan = plan or draw(seed)
    report = Report(plan)
    world = World(plan, trace)
    try:
        with watching(world.chronicle.marks):
            report.steps = world.run()
    except Violation as wrong:
        report.problem = f"violation at {world.agenda.now_ms - BEGIN_MS} ms: {wrong}"
    except Exception:  # noqa: BLE001 - whatever the core raises is what we look for
        report.problem = f"exception at {world.agenda.now_ms - BEGIN_MS} ms:\n{traceback.format_exc()}"
    report.lives, report.virtual_ms = world.lives, world.agenda.now_ms - BEGIN_MS
    report.refused, report.outcomes = world.crowd.refused, world.audit.outcomes
    report.marks = frozenset(world.chronicle.marks)
    return report
