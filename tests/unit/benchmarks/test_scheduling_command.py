"""The command plays, writes its figures, and puts every table where a document wants it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import core_scale
from benchmarks.figures import Report, write
from benchmarks.scheduling import tables
from benchmarks.scheduling.__main__ import main
from benchmarks.scheduling.player import play
from benchmarks.scheduling.summary import summarize
from benchmarks.scheduling.trace import bursty_day, with_adversary

ROOT = Path(__file__).parents[3]
PLOTTER = ROOT / ".venv-bench/bin/python"
TABLES = ("policies", "fairness", "adversaries", "predictions", "burst", "scale")
PLOTS = {"adversaries", "calibration", "calibration-real", "fairness", "tenants", "waits"}


def can_plot() -> bool:
    """Tell whether `make bench-setup` was run here."""
    return PLOTTER.exists() and subprocess.run([PLOTTER, "-c", "import matplotlib"], check=False).returncode == 0


def burst_report() -> Report:
    """Build a report as benchmarks/prediction.py writes it."""
    report = Report("prediction", quick=True)
    for name in ("all", "waited", "interactive", "batch"):
        report.add(f"{name}: tasks", 2, "of the burst")
        for figure in ("median error", "p90 error", "bias"):
            report.add(f"{name}: {figure}", 12.5, "%")
    report.detail = {"told": [100.0, 2_000.0], "real": [0.0, 3_000.0]}
    report.detail |= {f"deciles: {part}": [1_000.0] for part in ("told", "p10", "p50", "p90")}
    return report


@pytest.mark.timeout(180)
def test_command_writes_figures_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two minutes of traffic under two policies fill the JSON, the terminal and all tables of the real document."""
    write(burst_report(), tmp_path)
    write(core_scale.measure(True), tmp_path)
    document = tmp_path / "scheduling.md"
    document.write_text((ROOT / "docs/scheduling.md").read_text())
    wish = ["--policy", "fair", "--policy", "fifo", "--hours", "0.04", "--out", str(tmp_path)]
    assert main([*wish, "--document", str(document)]) == 0
    whole = json.loads((tmp_path / "scheduling.json").read_text())
    assert [(day["policy"], day["trace"]) for day in whole["day"]] == [("fair", "bursty"), ("fifo", "bursty")]
    assert [duel["trace"] for duel in whole["adversaries"]] == [
        trace for trace in ("bursty", "flood", "liar", "resubmitter") for _ in range(2)
    ]
    printed, text = capsys.readouterr().out, document.read_text()
    for name in TABLES:
        table = text.partition(f"<!-- {name}: begin -->\n")[2].partition(f"\n<!-- {name}: end -->")[0]
        assert table.startswith("| ")
        assert f"{name}\n{table}" in printed
    if can_plot():
        assert plots_of(tmp_path, "once") == plots_of(tmp_path, "again")


def plots_of(results: Path, name: str) -> dict[str, bytes]:
    """Draw all plots into a folder of its own."""
    into = results / name
    subprocess.run([PLOTTER, "-m", "benchmarks.scheduling.plots", results, into], check=True, cwd=ROOT)
    drawn = {path.stem: path.read_bytes() for path in sorted(into.iterdir())}
    assert set(drawn) == PLOTS
    return drawn


def test_one_part_can_be_played_alone(tmp_path: Path) -> None:
    """Whoever tunes a policy plays the day without the adversaries, or the adversaries without the day."""
    wish = ["--policy", "fair", "--hours", "0.03", "--out", str(tmp_path)]
    for part, played in (("day", (1, 0)), ("adversaries", (0, 4))):
        assert main([*wish, "--part", part]) == 0
        whole = json.loads((tmp_path / "scheduling.json").read_text())
        assert (len(whole["day"]), len(whole["adversaries"])) == played


def test_adversary_is_not_in_the_summary() -> None:
    """Waits, tenants and predictions of a trace with an adversary are those of all others."""
    summary = summarize(play(with_adversary(bursty_day(1, 300), "flood"), "fair"))
    alone = summarize(play(bursty_day(1, 300), "fair"))
    assert "flood" not in {found.tenant for found in summary.tenants}
    assert summary.waits["all"].count == alone.waits["all"].count < summary.tasks
    assert summary.errors["all"].count == alone.errors["all"].count


def test_no_window_is_no_fairness() -> None:
    """Where nobody was backlogged for a whole window the table has no index, and above all not a perfect one."""
    row = tables.fairness_table([summarize(play(bursty_day(1, 30), "fair"))]).splitlines()[2]
    assert row == "| fair | all | 0 | – | – | 0 | – | – |"


def test_tables_need_their_markers(tmp_path: Path) -> None:
    """What stands around the markers stays; without them nothing is written and the message names them."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nz\n")
    tables.put_between(page, "x", "new")
    assert page.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nz\n"
    with pytest.raises(ValueError, match="y: begin"):
        tables.put_between(page, "y", "new")
    assert "new" in page.read_text()
