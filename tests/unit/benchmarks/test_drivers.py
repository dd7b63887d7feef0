"""Every driver runs through in a few seconds and reports figures that can be true."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    admission,
    cancel,
    core_events,
    core_scale,
    determinism,
    failover,
    first_token,
    memory,
    prediction,
    recovery,
    relay,
)
from benchmarks.figures import Report

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="the harness is built with gcc")


def checked(measure: Callable[[bool], Report]) -> Report:
    """Run a driver quickly; every figure it reports is above zero but for differences and counts of what must not be."""
    report = measure(True)
    assert report.quick
    differences = re.compile(r"added|tokens after|open stream|.* (bias|error)$")
    impossible = [f for f in report.figures if f.value <= 0 and not differences.match(f.name)]
    assert report.figures
    assert impossible == []
    return report


@pytest.mark.timeout(240)
def test_core() -> None:
    """The core is measured without a compiler, an engine or a socket."""
    assert checked(core_events.measure).value("memory of a waiting task, allocated") > 500


@pytest.mark.timeout(240)
def test_core_scale() -> None:
    """Every step is timed in every cell, the queue is as long after a round as before, and tasks are weighed."""
    report = checked(core_scale.measure)
    assert all(len(cells) == 9 for cells in report.detail.values() if isinstance(cells, dict))
    assert set(report.detail) == set(core_scale.STEPS)
    assert 500 < report.value("memory of a waiting task beside its prompt, 100 tenants") < 5_000
    crowd = core_scale.Crowd(tenants=3, depth=20)
    crowd.go_round()
    pool = next(iter(crowd.core.state.pools.values()))
    assert (len(pool.queue), len(crowd.core.state.attempts)) == (20, core_scale.SLOTS)
    assert len({key.partition("/")[0] for key in crowd.core.state.tasks}) == 3


@needs_gcc
@pytest.mark.timeout(240)
def test_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our daemon relays for the harness, whether or not peers are there."""
    monkeypatch.setattr(relay, "ROUTERS", ())
    report = checked(relay.measure)
    assert report.value("orchqueue: CPU a token") > 1


@needs_gcc
@pytest.mark.timeout(240)
def test_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine itself, our daemon and its undurable twin are all asked."""
    monkeypatch.setattr(relay, "ROUTERS", ())
    report = checked(first_token.measure)
    assert {"engine directly: p50", "orchqueue: p50", "orchqueue, journal in memory: p50"} <= {
        f.name for f in report.figures
    }


@needs_gcc
@pytest.mark.timeout(240)
def test_admission() -> None:
    """Both journals accept every task that was posted."""
    report = checked(admission.measure)
    assert len(report.figures) == 26
    assert report.value("durable, 1 at once: syncs a task") >= 1, "a 202 without a sync is not durable"


@needs_gcc
@pytest.mark.timeout(240)
def test_memory() -> None:
    """Waiting tasks are weighed, and streams are opened on more than nothing."""
    assert checked(memory.measure).value("daemon at rest") > 10


@pytest.mark.real_engine
@pytest.mark.timeout(360)
@pytest.mark.req("ORCH-4109")
def test_cancel() -> None:
    """No text follows a 204 in any phase, with the real model."""
    report = checked(cancel.measure)
    assert set(report.detail) == {"waiting", "prefill", "decode", "just finished"}


@pytest.mark.timeout(240)
@pytest.mark.req("ORCH-4377")
def test_recovery() -> None:
    """A daemon takes over every size of journal, and answers before it is through."""
    report = checked(recovery.measure)
    for tasks in (50, 500):
        answers_s = report.value(f"daemon answers after its exec, {tasks} waiting")
        assert answers_s <= report.value(f"daemon has every task, {tasks} waiting")


@pytest.mark.real_engine
@pytest.mark.timeout(360)
def test_prediction() -> None:
    """A burst at the real model is followed to its end, and every start has a prediction beside it."""
    report = checked(prediction.measure)
    told, real = report.detail["told"], report.detail["real"]
    assert isinstance(told, list)
    assert isinstance(real, list)
    assert len(told) == len(real) == report.value("all: tasks") == 12


@pytest.mark.real_engine
@pytest.mark.timeout(360)
@pytest.mark.req("ORCH-4010", "ORCH-4011")
def test_failover() -> None:
    """Both deaths fall into the answer, whose text stays the same, and each pause is measured."""
    report = checked(failover.measure)
    assert len(report.figures) == 6
    assert report.value("daemon killed: reader's pause") > 0


@pytest.mark.real_engine
@pytest.mark.timeout(360)
@pytest.mark.req("ORCH-4405")
def test_determinism(tmp_path: Path) -> None:
    """Ways that a strict replica may differ in give all texts, and the table takes the page's place between its marks."""
    report = checked(determinism.measure)
    assert {figure.unit for figure in report.figures} == {"of 3"}
    assert all(figure.value == 3 for figure in report.figures if figure.note == "must be all")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{determinism.BEGIN}\nold\n{determinism.END}\nafter\n")
    determinism.write_document(page, report)
    told = page.read_text()
    assert told.startswith("before\n")
    assert told.endswith("after\n")
    assert "old" not in told
    assert told.count("of 3 |") == len(report.figures)
