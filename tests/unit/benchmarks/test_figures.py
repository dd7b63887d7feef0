"""Figures are rounded, found again, written and printed as they were taken."""

import json
from pathlib import Path

import pytest

from benchmarks.figures import Report, print_table, quantile, write


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 100), (0.99, 198), (1.0, 200), (0.001, 1)])
def test_quantile_is_a_value_that_occurred(share: float, wanted: int) -> None:
    """A quantile of 200 values is the one at its rank, never one between two."""
    assert quantile(list(range(200, 0, -1)), share) == wanted


def test_report_keeps_what_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON names the machine and every figure; the table shows them with their units."""
    report = Report("sample", quick=True)
    report.add("a thing", 12.34567, "µs", "of its kind")
    written = json.loads(write(report, tmp_path / "new").read_text())
    assert written["figures"] == [{"name": "a thing", "value": 12.35, "unit": "µs", "note": "of its kind"}]
    assert written["machine"]["cores"] >= 1
    assert report.value("a thing") == 12.35
    print_table(report)
    assert "12.35 µs   of its kind" in capsys.readouterr().out
