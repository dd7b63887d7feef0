"""What traceability writes: the index, the page, and the difference to what stands there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.tidy.planting import plant
from tests.tidy.traced import CODE, INDEX, SOUND, SPEC, TEST
from tools.tidy_text import document_links
from tools.tidy_tree import Tree
from tools.trace.__main__ import main
from tools.trace.output import REPORT, read_evidence, render

pytestmark = pytest.mark.req("ORCH-4042")

ROOT = Path(__file__).resolve().parents[2]
POSTING = """\
ORCH-9001:
  title: "Posting"
  level: "MUST"
  status: "built"
  section: "Asking"
  spec: "specs/queue.md#orch-9001--posting"
  contract:
    getHealth: ["400"]
    postTask: ["operation", "202", "400"]
  pact:
    - "a list"
    - "a task"
  metrics:
    - "tasks_total"
  tests:
    tests/unit/test_queue.py: ["module", "test_push"]
  code:
    src/orchqueue/core/queue.py: ["module", "Queue.push"]
"""


def rendered(root: Path) -> dict[str, str]:
    """Return what would be written for a tree."""
    return {path.relative_to(root).as_posix(): text for path, text in render(root, read_evidence(root)).items()}


def test_the_index_names_all_that_cites_a_requirement(tmp_path: Path) -> None:
    """Operations with statuses, interactions, metrics, tests and code stand under the id, and it is YAML."""
    plant(tmp_path, SOUND)
    text = rendered(tmp_path)[INDEX]
    assert POSTING in text
    loaded = YAML(typ="safe").load(text)
    assert list(loaded) == ["ORCH-9001", "ORCH-9002", "ORCH-9003-DEPR"]
    assert loaded["ORCH-9002"]["contract"] == {
        "getHealth": ["operation"],
        "header": ["Place"],
        "postTask": ["operation"],
    }
    assert loaded["ORCH-9003-DEPR"]["status"] == "retired"


def test_the_index_survives_lines_that_move(tmp_path: Path) -> None:
    """Lines that are added above code, tests and requirements change nothing."""
    plant(tmp_path, SOUND)
    before = rendered(tmp_path)
    moved = {name: SOUND[name].replace("\n\n\n", "\n\nX = 1\n\n\n", 1) for name in (CODE, TEST)}
    plant(tmp_path, {**moved, SPEC: SOUND[SPEC].replace("# Queue\n", "# Queue\n\nMore.\n")})
    assert rendered(tmp_path) == before


def test_the_page_begins_with_the_totals(tmp_path: Path) -> None:
    """A stranger reads how many are promised, built, proven and planned before anything else."""
    plant(tmp_path, SOUND)
    page = rendered(tmp_path)[REPORT]
    assert "Of 2 promises 1 are built, and 1 of these are proven" in page
    assert "1 are [planned](#planned).\nFor 1 of the planned ones evidence exists" in page
    assert page.index("| **all** | 2 | 1 | 1 | 1 |") < page.index("How to read the tables")
    assert "| [Asking](#asking) | 2 | 1 | 1 | 1 |" in page
    assert "- [ORCH-9002](specs/queue.md#orch-9002--listing) Listing, SHOULD (evidence exists)" in page
    assert "- [ORCH-9003-DEPR](specs/queue.md#orch-9003-depr--guessing) Guessing" in page


def test_what_is_built_and_not_proven_is_told_at_the_top(tmp_path: Path) -> None:
    """A built SHOULD without a test is no fault, is counted before the tables and named after them."""
    plant(tmp_path, {**SOUND, SPEC: SOUND[SPEC].replace("SHOULD · planned", "SHOULD · built")})
    plant(tmp_path, {TEST: SOUND[TEST].replace(', "ORCH-9002"', "")})
    page = rendered(tmp_path)[REPORT]
    assert page.index("1 are built and [not proven](#built-and-not-proven).") < page.index("How to read the tables")
    assert "## Built and not proven\n\n- [ORCH-9002](specs/queue.md#orch-9002--listing) Listing, SHOULD\n" in page
    assert "| **all** | 2 | 2 | 1 | 0 |" in page


def test_every_link_of_the_page_leads_somewhere(tmp_path: Path) -> None:
    """Files and anchors that the page names exist."""
    plant(tmp_path, SOUND)
    assert main([], tmp_path) == 0
    assert [str(finding) for finding in document_links(Tree(tmp_path))] == []


def test_the_order_of_files_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order the files come in, the same bytes are written."""
    plant(tmp_path, SOUND)
    before = rendered(tmp_path)
    backwards = list(reversed(Tree(tmp_path).files))
    monkeypatch.setattr(Tree, "files", backwards)
    assert rendered(tmp_path) == before


def test_the_seed_of_hashes_changes_nothing(tmp_path: Path) -> None:
    """Under any PYTHONHASHSEED the same bytes are written and the same faults are told in the same order."""
    plant(tmp_path, {**SOUND, CODE: SOUND[CODE].replace("ORCH-9001", "ORCH-9008, ORCH-9009")})
    program = (
        f"import pathlib; from tools.trace.__main__ import main; main(['--check'], pathlib.Path({str(tmp_path)!r}))"
    )
    told = set()
    for seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        )
        told.add(done.stdout + done.stderr)
    assert len(told) == 1
    assert "ORCH-9008 stands in no specification" in told.pop()


def test_check_shows_the_difference_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stale index is told with what to do and as a unified diff, and stays as it is."""
    plant(tmp_path, SOUND)
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    plant(tmp_path, {INDEX: rendered(tmp_path)[INDEX].replace('"Asking"', '"Begging"', 1)})
    capsys.readouterr()
    assert main(["--check"], tmp_path) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"{INDEX} is not current: run `make gen` and commit what it writes\n")
    assert '\n-  section: "Begging"\n+  section: "Asking"\n' in told
    assert "Begging" in (tmp_path / INDEX).read_text(encoding="utf-8")


def test_a_broken_rule_does_not_keep_the_index_from_being_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing link is told and fails the command, but the files say what there is."""
    plant(tmp_path, {**SOUND, TEST: ""})
    assert main([], tmp_path) == 1
    assert "has no test" in capsys.readouterr().err
    assert (tmp_path / INDEX).exists()
