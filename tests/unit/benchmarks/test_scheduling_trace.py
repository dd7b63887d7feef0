"""A trace is the same every time, is as busy as it was asked to be, and holds what adversaries do."""

from __future__ import annotations

import pytest

from benchmarks.scheduling.engines import POOL, Engine, EnginePool, paces
from benchmarks.scheduling.trace import ADVERSARIES, Adversary, bursty_day, habits, with_adversary

HOUR_S = 3_600


def test_same_seed_same_trace() -> None:
    """Two draws of one seed are equal to the last field, another seed is another day."""
    assert bursty_day(5, HOUR_S) == bursty_day(5, HOUR_S)
    assert bursty_day(5, HOUR_S).arrivals != bursty_day(6, HOUR_S).arrivals


def test_load_is_what_was_asked_for() -> None:
    """The work offered over a long trace is near the asked part of the pool, by many tenants of both classes."""
    trace = bursty_day(2, 12 * HOUR_S)
    work_us = sum(POOL.work_us(a.prompt_tokens, a.tokens_out) for a in trace.arrivals)
    assert 0.75 < work_us / (POOL.slots * trace.length_ms * 1000) < 0.95
    assert len({a.tenant for a in trace.arrivals}) == 50
    assert {a.priority for a in trace.arrivals} == {"interactive", "batch"}


def test_arrivals_can_be_true() -> None:
    """They come in order of time; no output is empty or longer than its limit, and some hint at theirs."""
    trace = bursty_day(3, HOUR_S)
    instants = [a.at_ms for a in trace.arrivals]
    assert instants == sorted(instants)
    assert 0 <= instants[0] <= instants[-1] < trace.length_ms
    assert all(1 <= a.tokens_out <= a.max_tokens for a in trace.arrivals)
    hinted = {a.tenant for a in trace.arrivals if a.expected_tokens is not None}
    assert hinted == {h.tenant for h in habits(3) if h.hints} & {a.tenant for a in trace.arrivals}


def test_few_tenants_send_most() -> None:
    """The heaviest fifth of the tenants sends more than half of the work, and the shares are all of it."""
    shares = [habit.load_share for habit in habits(1)]
    assert sum(shares) == pytest.approx(1)
    assert sum(sorted(shares)[-10:]) > 0.5


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_adversary_comes_on_top(kind: Adversary) -> None:
    """Everybody else's traffic stays as it is; the adversary plays in the middle third only."""
    base = bursty_day(1, HOUR_S)
    trace = with_adversary(base, kind)
    added = [a for a in trace.arrivals if a.tenant == kind]
    assert [a for a in trace.arrivals if a.tenant != kind] == base.arrivals
    assert added
    assert base.length_ms // 3 <= added[0].at_ms <= added[-1].at_ms < base.length_ms * 2 // 3
    assert all(a.expected_tokens == 1 for a in added) == (kind == "liar")
    assert all(a.patience_ms > 0 for a in added) == (kind == "resubmitter")
    assert trace.weights[kind] == 1


def test_engine_slows_as_slots_fill() -> None:
    """Alone a token takes what it was configured to take; with others beside it, longer by their number."""
    engine = Engine(EnginePool(decode_us=10_000, prefill_us=1_000, slow_percent=50))
    engine.busy = 1
    assert (engine.decode_ms(10, 1.0), engine.prefill_ms(90, 1.0)) == (100, 100)
    engine.busy = 3
    assert (engine.decode_ms(10, 1.0), engine.decode_ms(10, 1.1)) == (200, 220)


def test_paces_are_seeded() -> None:
    """The noise is the same for every policy, and small."""
    assert paces(1, 100) == paces(1, 100) != paces(2, 100)
    assert all(0.7 < pace < 1.4 for pace in paces(1, 100))
