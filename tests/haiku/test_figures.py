"""docs/haiku.md tells the figures that were measured, and nothing in the tree keeps a poem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import RESULTS
from tests.haiku.__main__ import BEGIN, END, kept, put_into, table

PAGE = Path(__file__).parents[2] / "docs/haiku.md"
HAIKU: dict[str, object] = {
    "event": "haiku",
    "nonce": "abcdefgh",
    "poem": "a\nb\nc",
    "engine_version": "x-1",
    "model_digest": "ab" * 32,
}


def rate(passed: int, **broken: int) -> dict[str, Any]:
    """Make the line that a run of ten ends with."""
    told = {"event": "rate", "mode": "plain", "runs": 10, "passed": passed, "percent": 10.0 * passed}
    return {**told, "broken": broken, "median_s": 1.5, "longest_s": 3.25, "shows": "x", "does_not_show": "y"}


@pytest.mark.req("ORCH-4410")
def test_the_page_tells_what_was_measured() -> None:
    """The table between the marks is made of the results, and the gate's mode stands at 99 % or more over 100 poems."""
    whole = json.loads((RESULTS / "haiku.json").read_text())
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == "\n" + table(whole)
    assert whole["choice"]["runs"] >= 100
    assert whole["choice"]["percent"] >= 99


@pytest.mark.req("ORCH-4412")
def test_the_figures_are_kept_without_the_poems(tmp_path: Path) -> None:
    """Modes are kept side by side, the latest figures of each, and neither nonce nor poem reaches the file."""
    path = tmp_path / "results" / "haiku.json"
    kept(path, "plain", [HAIKU, rate(1, minute=9)])
    kept(path, "choice", [HAIKU, rate(9, nonce=1)])
    kept(path, "choice", [HAIKU, rate(10)])
    whole = json.loads(path.read_text())
    assert {mode: one["passed"] for mode, one in whole.items()} == {"plain": 1, "choice": 10}
    assert "abcdefgh" not in path.read_text()
    assert "poem" not in path.read_text()
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(page, table(whole))
    text = page.read_text()
    assert "| `plain` | 10 | 1 (10.0 %) | 1.5 s | 3.25 s | `minute` 9 |\n| `choice` | 10 | 10 (100.0 %) |" in text
    assert "| nothing |" in text
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
