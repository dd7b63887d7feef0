"""What is still to run, and what runs come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchqueue.verify.findings import Findings
from orchqueue.verify.snapshot import parse
from orchqueue.verify.target import Target
from orchqueue.verify.telling import progress_bar, summary, write_files
from tests.unit.verify.snapshots import snapshot

PAIR = Target(("first", "second"), ("first-0", "second-0"))
SEEDS = range(1001, 1003)


def run(findings: Findings, seed: int, replica_id: str, text: str = "a b c") -> None:
    """Add one run."""
    findings.add(snapshot(text, seed, replica_id=replica_id, pool_id=replica_id.partition("-")[0]))


@pytest.mark.req("ORCH-4402")
def test_equal_only_when_each_seed_ran_on_each_replica() -> None:
    """One seed that lacks on one replica makes it not verified, and the seed is named."""
    findings = Findings(PAIR, SEEDS)
    for seed, replica_id in ((1001, "first-0"), (1001, "second-0"), (1002, "first-0")):
        run(findings, seed, replica_id)
    report = findings.report(40, 1_000, ())
    assert (report.verdict, report.seeds_equal, report.seeds_missing) == ("incomplete", 1, (1002,))
    assert summary(report)[-2:] == [
        "not compared: seeds 1002",
        "NOT VERIFIED: 1/2 seeds were compared, and were equal (3 tasks in 1 s)",
    ]
    run(findings, 1002, "second-0")
    report = findings.report(40, 1_000, ("load",))
    assert (report.verdict, report.seeds_equal) == ("equal", 2)
    told = summary(report)
    assert told[0] == "compared: first-0 (2 runs), second-0 (2 runs)"
    assert "meanwhile: load" in told
    assert told[-1] == "2/2 seeds byte-exact (4 tasks in 1 s)"


@pytest.mark.req("ORCH-4402")
def test_one_replica_is_compared_with_itself_and_that_is_said() -> None:
    """Twice on the only replica is enough, and nothing more is claimed."""
    findings = Findings(Target(("first",), ("first-0",)), SEEDS)
    for seed in (*SEEDS, *SEEDS):
        assert findings.lacks(seed)
        run(findings, seed, "first-0")
    report = findings.report(40, 1_000, ())
    assert (report.verdict, report.compared) == ("equal", "itself")
    assert summary(report)[0].startswith("compared with itself, for there is no second replica: first-0 (4 runs)")


@pytest.mark.req("ORCH-4402")
def test_a_run_elsewhere_counts_for_nothing() -> None:
    """What a replica that is not asked about says is neither needed nor held against the others."""
    findings = Findings(PAIR, SEEDS)
    run(findings, 1001, "first-1", "x")
    run(findings, 1001, "first-0")
    assert (findings.done_runs, findings.runs, findings.seeds_different) == (1, 2, ())


@pytest.mark.req("ORCH-4402")
def test_where_replicas_cannot_be_listed_two_of_any_name_are_needed() -> None:
    """A seed is done when two different replicas ran it, never when one did twice."""
    findings = Findings(Target(("p", "p"), ()), SEEDS)
    run(findings, 1001, "p-0")
    run(findings, 1001, "p-0")
    assert findings.lacks(1001)
    assert not findings.lacks(1001, "p-0")
    assert findings.lacks(1001, "p-1")
    run(findings, 1001, "p-1")
    assert not findings.lacks(1001)
    assert (findings.done_runs, findings.wanted_runs) == (2, 4)


@pytest.mark.req("ORCH-4287", "ORCH-4402")
def test_a_difference_decides_whatever_else_lacks(tmp_path: Path) -> None:
    """Two texts of one seed are different at once; both runs and the diff are left as files that can be read again."""
    findings = Findings(PAIR, SEEDS)
    run(findings, 1001, "first-0")
    run(findings, 1001, "second-0", "a b x")
    assert "1 different" in progress_bar(findings)
    report = findings.report(40, 1_000, ())
    assert (report.verdict, report.seeds_different, report.seeds_equal) == ("different", (1001,), 0)
    assert summary(report)[-1] == "DIFFERENT: 1 of 2 seeds gave two texts: seeds 1001 (2 tasks in 1 s)"
    written = write_files(tmp_path / "runs", findings, report)
    assert [path.name for path in written] == ["first-0.jsonl", "second-0.jsonl", "divergences.txt"]
    assert [one.text for path in written[:2] for one in parse(path.read_text())] == ["a b c", "a b x"]
    assert "token 2 ' c'" in written[2].read_text()


@pytest.mark.req("ORCH-4402")
def test_what_cannot_be_compared_is_not_called_equal() -> None:
    """A replica of another engine version leaves its seeds not compared, and the reason is told."""
    findings = Findings(PAIR, SEEDS[:1])
    run(findings, 1001, "first-0")
    findings.add(snapshot(seed=1001, replica_id="second-0", engine_version="2"))
    report = findings.report(40, 1_000, ())
    assert report.verdict == "incomplete"
    assert "engine_version is '1' and '2'" in report.failures[0]


@pytest.mark.req("ORCH-4402")
def test_a_replica_whose_name_is_no_file_name_gets_a_file_all_the_same(tmp_path: Path) -> None:
    """No id leads out of the folder."""
    findings = Findings(Target(("p",), ("../x",)), SEEDS[:1])
    run(findings, 1001, "../x")
    (written,) = write_files(tmp_path / "runs", findings, findings.report(40, 1, ()))
    assert written.parent == tmp_path / "runs"
    assert len(parse(written.read_text())) == 1
