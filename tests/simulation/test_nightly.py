"""The nightly campaign: it tells how far it is, ends by itself or by hand, and leaves failing seeds behind."""

from collections.abc import Iterator
from datetime import date
from itertools import count
from pathlib import Path

import pytest

from orchqueue_sim import campaign, main
from orchqueue_sim.mutants import MUTANTS
from orchqueue_sim.nightly import Batch, first_seed, nightly, run_batch


def slow_clock() -> Iterator[float]:
    """Count thirty seconds at every look."""
    return map(float, count(0, 30))


@pytest.mark.req("ORCH-4344")
def test_a_night_alternates_the_levels_and_ends_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both levels get seeds of their own from the first one on, progress is told, and nothing failed."""
    seen: list[tuple[int, range]] = []

    def work(level: int, seeds: range) -> Batch:
        seen.append((level, seeds))
        return Batch(level, len(seeds), [], frozenset({"outcome completed"}))

    assert nightly(500, 10.0, 1, tmp_path / "failures", work, slow_clock().__next__) == 0
    assert seen[:4] == [(1, range(500, 600)), (2, range(500, 520)), (1, range(600, 700)), (2, range(520, 540))]
    told = capsys.readouterr().out
    assert "not yet: " in told
    assert "failed: 0" in told.splitlines()[-1]
    assert not (tmp_path / "failures").exists()


@pytest.mark.req("ORCH-4239", "ORCH-4344")
def test_failing_seeds_are_left_with_the_command_that_repeats_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file gets a line for each, the summary says where to keep them, and the status is 1."""
    failures = tmp_path / "failures"
    failures.write_text("make sim-replay LEVEL=1 SEED=1  # of another night\n")

    def work(level: int, seeds: range) -> Batch:
        return run_batch(level, seeds[: 12 if level == 1 else 0])

    with MUTANTS["finish_twice"]():
        assert nightly(0, 1.0, 1, failures, work, slow_clock().__next__) == 1
    lines = failures.read_text().splitlines()
    assert lines[0].endswith("of another night")
    assert lines[1].startswith("make sim-replay LEVEL=1 SEED=")
    assert "ends twice" in lines[1]
    assert str(campaign.REGRESSIONS[1]) in capsys.readouterr().out


@pytest.mark.req("ORCH-4344")
def test_a_night_that_is_stopped_by_hand_sums_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C loses nothing of what was found."""

    def work(level: int, seeds: range) -> Batch:
        if level == 2:
            raise KeyboardInterrupt
        return Batch(level, len(seeds), [(seeds[0], "violation")], frozenset())

    assert nightly(7, 60.0, 1, tmp_path / "failures", work) == 1
    told = capsys.readouterr().out
    assert "stopped by hand" in told
    assert "level 1: 100 seeds" in told


@pytest.mark.timeout(180)
@pytest.mark.req("ORCH-4344")
def test_the_command_line_runs_a_short_night_on_two_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`orchq-sim nightly` ends when its time is up and nothing is in flight any more."""
    failures = tmp_path / "failures"
    words = ["nightly", "--minutes", "0", "--processes", "2", "--start", "3", "--failures", str(failures)]
    assert main.main(words) == 0
    assert "level 1: 100 seeds" in capsys.readouterr().out


def test_every_day_has_seeds_of_its_own() -> None:
    """Two days never share a seed."""
    assert first_seed(date(2026, 3, 2)) - first_seed(date(2026, 3, 1)) == 10_000_000


def test_a_long_campaign_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Now and then a line says how many seeds are done."""
    assert campaign.campaign(0, 3, processes=1, clock=slow_clock().__next__) == 0
    assert "1 of 3 seeds" in capsys.readouterr().out
