"""Simulated engines: they start, answer, hang, die and lie as the plan says, and always answer in events.

Within one attempt events come in the order in which a real adapter would post them; between attempts anything may race.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId
from orchqueue_sim.agenda import Agenda
from orchqueue_sim.auditor import Auditor
from orchqueue_sim.marks import Chronicle
from orchqueue_sim.oracle import CHARS_PER_TOKEN, Answer, answer, chars_per_token, count_tokens, distorted
from orchqueue_sim.plan import Plan

SILENCE_MS = 600_000
ANY_START_FAILURE: tuple[ev.CrashCause, ...] = ("exit", "signal", "selftest")
START_FAILURES: dict[str, tuple[ev.CrashCause, str]] = {
    "never_ready": ("never_ready", "the engine was not ready in time"),
    "port_clash": ("exit", "the address is in use"),
}
CRASHES: tuple[ev.CrashCause, ...] = ("exit", "signal", "host_oom", "cuda", "health")
EARLY: dict[str, ev.AttemptFailure] = {
    "rejected": "rejected",
    "overloaded": "overloaded",
    "engine_error": "engine_error",
    "lost_early": "lost",
}


class Run(msgspec.Struct):
    """One attempt on an engine. `held`: the engine still computes it. `stubborn`: nothing but its end stops it.

    `zombie`: it outlives its replica. `chars`: letters of a token. `tokens_in` of its prompt, with the text that it goes on from.
    """

    attempt_id: AttemptId
    replica_id: ReplicaId
    answer: Answer
    chars: int
    tokens_in: int
    sent: int = 0
    aborted: bool = False
    held: bool = True
    stubborn: bool = False
    zombie: bool = False
    over: bool = False


class Box(msgspec.Struct):
    """One replica's process. `life` changes whenever it starts or dies, so that what was planned before is void."""

    replica_id: ReplicaId
    slots: int
    up: bool = False
    life: int = 0
    model_ref: str = ""
    bad_starts: int = 0
    trouble: str = ""
    odd: bool = False
    can_continue: bool = False


class Fleet:
    """All engines of one daemon life."""

    def __init__(
        self, plan: Plan, agenda: Agenda, rng: Random, audit: Auditor, post: Callable[[ev.AnyEvent], None],
        chronicle: Chronicle,
    ) -> None:  # fmt: skip
        self._plan, self._agenda, self._rng, self._audit, self._post = plan, agenda, rng, audit, post
        self._chronicle = chronicle
        self.boxes = {
            r.replica_id: Box(r.replica_id, p.slots, can_continue=rng.random() < plan.can_continue)
            for p in plan.settings.pools
            for r in p.replicas
        }
        self.runs: dict[AttemptId, Run] = {}
        self.healing = False

    def heal(self) -> None:
        """Stop failing; an engine of another version, which keeps its siblings out, is replaced."""
        self.healing = True
        for box in self.boxes.values():
            if box.up and box.odd:
                self._down(box)
                self._after(0, 20, partial(self._tell_lost, box, box.life))

    def end(self) -> None:
        """Vanish with the daemon: whatever was planned is void."""
        for box in self.boxes.values():
            box.life += 1
        for run in self.runs.values():
            run.over, run.held = True, False

    def carry_out(self, effect: fx.AnyEffect) -> None:
        """Begin to do what the core wants."""
        match effect:
            case fx.StartAttempt():
                self._start_attempt(effect)
            case fx.AbortAttempt():
                self._abort(effect.attempt_id)
            case fx.CountPrompt():
                self._count(effect)
            case fx.StartReplica():
                self._start_replica(effect)
            case fx.StopReplica():
                self._stop_replica(effect.replica_id)
            case fx.ProbeReplica():
                self._after(1, self._rng.choice((30, 1_500, 4_000)), partial(self._probed, effect.replica_id))
            case fx.VerifyModel():
                self._after(1, 50, partial(self._verified, effect.pool_id, effect.model_ref))
            case fx.EvictKv():
                pass
            case _:
                raise AssertionError(f"{effect} is nothing for an engine")

    def _comes(self, fault: str, chance: float = 0.25) -> bool:
        return not self.healing and self._plan.has(fault) and self._rng.random() < chance

    def _strikes(self, fault: str, who: object, chance: float = 0.25) -> bool:
        """Decide whether a fault strikes here and now, and tell of it."""
        if self._comes(fault, chance):
            self._chronicle.struck(fault, str(who))
            return True
        return False

    def _after(self, low_ms: int, high_ms: int, act: Callable[[], None]) -> None:
        self._agenda.after(self._rng.randint(low_ms, high_ms), act)

    def _count(self, effect: fx.CountPrompt) -> None:
        tokens = None if self._strikes("uncounted_prompts", effect.key, 0.5) else count_tokens(effect.spec)
        delay_ms = self._rng.choice((1, 5, effect.timeout_ms))
        self._agenda.after(delay_ms, partial(self._post, ev.PromptCounted(effect.key, tokens)))

    def _runs_on(self, box: Box) -> list[Run]:
        return [r for r in self.runs.values() if r.replica_id == box.replica_id and not r.over]

    # Replicas.

    def _start_replica(self, effect: fx.StartReplica) -> None:
        box = self.boxes[effect.replica_id]
        box.life += 1
        box.model_ref = effect.model_ref
        # What an earlier process of this box still runs is ended first; a child of it may have got away.
        for run in self._runs_on(box):
            if not run.zombie:
                self._free(run)
                self._after(0, 5, partial(self._break, run))
        if box.bad_starts == 0:
            for fault, times in (("failing_start", self._rng.randint(1, 7)), ("never_ready", 1), ("port_clash", 2)):
                if self._comes(fault, 0.4):
                    box.bad_starts, box.trouble = times, fault
                    break
        low_ms, high_ms = (3_000, 10_000) if box.bad_starts and box.trouble == "never_ready" else (5, 200)
        self._after(low_ms, high_ms, partial(self._came_up, box, box.life))

    def _came_up(self, box: Box, life: int) -> None:
        if box.life != life:
            return
        bad_model = box.model_ref.startswith("broken")
        if bad_model or (box.bad_starts > 0 and not self.healing):
            self._fail_start(box, "" if bad_model else box.trouble)
            return
        box.bad_starts = 0
        box.up = True
        fewer = box.slots > 1 and self._strikes("fewer_slots", box.replica_id)
        slots = box.slots - 1 if fewer else box.slots
        box.odd = self._strikes("odd_version", box.replica_id, 0.3)
        version = "v2" if box.odd else "v1"
        self._audit.replica_up(box.replica_id, slots)
        facts = ev.ReplicaFacts(
            version, f"digest-{box.model_ref}", slots, 256, True, 100, 1_000 * self._plan.token_ms,
            can_continue=box.can_continue,
        )  # fmt: skip
        self._post(ev.ReplicaReady(box.replica_id, facts))
        if self._comes("replica_crash", 0.6):
            self._after(10, max(20, self._plan.span_ms), partial(self._crash, box, box.life))

    def _fail_start(self, box: Box, fault: str) -> None:
        box.bad_starts = max(0, box.bad_starts - 1)
        box.life += 1
        if fault:
            self._chronicle.struck(fault, box.replica_id)
        cause, detail = START_FAILURES.get(fault, (self._rng.choice(ANY_START_FAILURE), "simulated"))
        self._post(ev.ReplicaLost(box.replica_id, cause, detail))

    def _turn_zombie(self, box: Box, life: int) -> None:
        """Let the process be reported dead while a child of it goes on with all that it was given."""
        runs = [r for r in self._runs_on(box) if not r.aborted]
        if box.life != life or not box.up or self.healing or not runs:
            return
        self._chronicle.struck("zombie", f"{box.replica_id} is told dead and goes on with {len(runs)} attempts")
        box.up = False
        box.life += 1
        for run in runs:
            run.stubborn = run.zombie = True
        self._tell_lost(box, box.life)

    def _crash(self, box: Box, life: int) -> None:
        if box.life != life or not box.up or self.healing:
            return
        self._chronicle.struck("replica_crash", box.replica_id)
        self._down(box)
        # The monitor and the broken connections notice in either order.
        self._after(0, 20, partial(self._tell_lost, box, box.life))

    def _tell_lost(self, box: Box, life: int) -> None:
        if box.life == life and not box.up:
            box.life += 1
            cause = self._rng.choice(CRASHES)
            self._post(ev.ReplicaLost(box.replica_id, cause, "simulated"))

    def _down(self, box: Box) -> None:
        box.up = False
        box.life += 1
        for run in self._runs_on(box):
            self._free(run)
            self._after(0, 20, partial(self._break, run))

    def _break(self, run: Run) -> None:
        if run.over:
            return
        run.over = True
        if not run.aborted:
            self._post(ev.AttemptFailed(run.attempt_id, "lost", "connection closed"))
        self._after(0, 5, partial(self._closed, run))

    def _stop_replica(self, replica_id: ReplicaId) -> None:
        box = self.boxes[replica_id]
        self._down(box)
        event: ev.AnyEvent = ev.ReplicaStopped(replica_id)
        if self._strikes("stop_as_loss", replica_id, 0.5):
            event = ev.ReplicaLost(replica_id, "signal", "killed while stopping")
        self._after(1, 100, partial(self._post, event))

    def _probed(self, replica_id: ReplicaId) -> None:
        box = self.boxes[replica_id]
        if box.up and self._strikes("replica_crash", replica_id, 0.7):
            self._down(box)
        if box.up:
            self._post(ev.ReplicaHealthy(replica_id))
        else:
            self._tell_lost(box, box.life)

    def _verified(self, pool_id: PoolId, model_ref: str) -> None:
        problem = "checksum differs" if model_ref.startswith("bad") else ""
        self._post(ev.ModelVerified(pool_id, model_ref, problem))

    # Attempts.

    def _start_attempt(self, effect: fx.StartAttempt) -> None:
        box = self.boxes[effect.replica_id]
        right, chars = answer(effect.spec, box.model_ref, effect.said), chars_per_token(effect.spec)
        crooked = bool(right.text) and self._strikes("diverging_engine", f"attempt {effect.attempt_id}", 0.3)
        if crooked:
            right = distorted(right, self._rng.randrange(1 + len(right.text) // 2), self._rng.randrange(3))
        tokens_in = 10 + -(-len(effect.said) // chars)
        run = Run(effect.attempt_id, effect.replica_id, right, chars, tokens_in)
        self.runs[run.attempt_id] = run
        self._audit.engine_runs(effect, box.model_ref, effect.said + right.text, crooked=crooked)
        if not box.up:
            self._free(run)
            self._after(0, 5, partial(self._break, run))
            return
        for fault, failure in EARLY.items():
            if self._strikes(fault, f"attempt {run.attempt_id}"):
                self._after(1, 50, partial(self._fail, run, failure))
                return
        if self._comes("zombie", 0.2):
            self._after(1, 50, partial(self._turn_zombie, box, box.life))
        delay_ms = self._rng.randint(1, 10 + 3 * self._plan.token_ms)
        if self._strikes("slow_first_token", f"attempt {run.attempt_id}"):
            delay_ms += self._rng.choice((500, 5_000))
        self._agenda.after(delay_ms, partial(self._go_on, run))

    def _fail(self, run: Run, failure: ev.AttemptFailure) -> None:
        if run.over:
            return
        run.over = True
        if not run.aborted:
            self._post(ev.AttemptFailed(run.attempt_id, failure, "simulated"))
        if failure == "lost" and self._comes("replica_crash", 0.7):
            box = self.boxes[run.replica_id]
            self._after(0, 20, partial(self._crash, box, box.life))
        self._free(run)
        self._close_soon(run)

    def _go_on(self, run: Run) -> None:
        """Send the next piece, cut anew in every run, or the end."""
        if run.over or (run.aborted and not run.stubborn):
            return
        text, box = run.answer.text, self.boxes[run.replica_id]
        if run.sent >= len(text):
            self._complete(run)
            return
        if not run.aborted and self._strikes("silence", f"attempt {run.attempt_id}", 0.3 if run.sent else 0.05):
            run.stubborn = self._rng.random() < 0.3
            self._agenda.after(SILENCE_MS, partial(self._complete, run))
            return
        if run.sent and box.up and not run.zombie and self._comes("replica_crash", 0.1):
            self._crash(box, box.life)
            return
        if run.sent and self._strikes("lost_late", f"attempt {run.attempt_id}", 0.3):
            self._fail(run, "lost")
            return
        self._post(self._piece(run))
        delay_ms = 1 + self._rng.randint(0, 4 * self._plan.token_ms)
        if run.aborted:
            delay_ms += self._rng.randint(0, 800)  # Who does not listen takes its time.
        self._agenda.after(delay_ms, partial(self._go_on, run))

    def _piece(self, run: Run) -> ev.ChunksArrived:
        text = run.answer.text
        texts = []
        for _ in range(self._rng.choice((1, 1, 2))):
            cut = text[run.sent : run.sent + self._rng.choice((1, 4, 4, 16, 64)) * run.chars // CHARS_PER_TOKEN]
            if cut:
                texts.append(cut)
                run.sent += len(cut)
        return ev.ChunksArrived(run.attempt_id, tuple(texts), -(-run.sent // run.chars))

    def _complete(self, run: Run) -> None:
        if run.over or (run.aborted and not run.stubborn):
            return
        run.over = True
        done = run.answer
        decode_ms = done.tokens_out * self._plan.token_ms
        self._post(
            ev.AttemptCompleted(run.attempt_id, done.finish_reason, run.tokens_in, done.tokens_out, 1, decode_ms)
        )
        self._free(run)
        self._close_soon(run)

    def _abort(self, attempt_id: AttemptId) -> None:
        run = self.runs.get(attempt_id)
        if run is None or run.over or run.aborted:
            return
        run.aborted = True
        who = f"attempt {attempt_id}"
        run.stubborn = run.stubborn or self._strikes("ignores_abort", who)
        if run.stubborn:
            return
        if run.sent < len(run.answer.text) and self._strikes("chatter_after_abort", who, 0.7):
            self._after(0, 10, partial(self._chatter, run))
        if self._strikes("completion_after_abort", who):
            run.stubborn = True
            self._after(0, 10, partial(self._complete, run))
            return
        self._after(0, 2_000 if self._strikes("late_close", who) else 20, partial(self._stopped, run))

    def _chatter(self, run: Run) -> None:
        self._post(self._piece(run))

    def _stopped(self, run: Run) -> None:
        if not run.over:
            run.over = True
            self._free(run)
            self._close_soon(run)

    def _close_soon(self, run: Run) -> None:
        late = self._strikes("late_close", f"attempt {run.attempt_id}")
        self._after(0, 2_000 if late else 5, partial(self._closed, run))

    def _closed(self, run: Run) -> None:
        if self.runs.pop(run.attempt_id, None) is None:
            return
        self._post(ev.AttemptClosed(run.attempt_id))
        if self._strikes("double_close", f"attempt {run.attempt_id}"):
            self._after(0, 50, partial(self._post, ev.AttemptClosed(run.attempt_id)))

    def _free(self, run: Run) -> None:
        if run.held:
            run.held = False
            self._audit.engine_freed(run.replica_id, run.attempt_id)
