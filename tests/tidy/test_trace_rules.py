"""Each rule of traceability is seen catching its fault at its line, and a sound tree passes."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.tidy.planting import plant
from tests.tidy.traced import CODE, CONTROL, DATA, INDEX, METRICS, PACT, SOUND, SPEC, TEST, interaction, pact
from tools import gen, stale
from tools.trace import output
from tools.trace.__main__ import main
from tools.trace.output import faults, read_evidence, refusals

pytestmark = pytest.mark.req("ORCH-4042")

BUILT = "### ORCH-9001 — Posting\nMUST · built\n"
RETIRED = "### ORCH-9003-DEPR — Guessing\nMUST · retired\n"


def told(root: Path, files: dict[str, str]) -> list[str]:
    """Return the faults of a planted tree."""
    plant(root, files)
    return [str(fault) for fault in faults(root, read_evidence(root))]


def changed(name: str, old: str, new: str) -> dict[str, str]:
    """Return the sound tree with one text replaced."""
    assert SOUND[name].count(old) == 1, f"{old!r} must stand once in {name}"
    return {**SOUND, name: SOUND[name].replace(old, new)}


def test_a_sound_tree_has_no_fault(tmp_path: Path) -> None:
    """Where every link leads somewhere, nothing is told."""
    assert told(tmp_path, SOUND) == []


FORMS = [
    ("level", SPEC, "MUST · built", "MUSTN'T · built", f"{SPEC}:8: ORCH-9001 does not tell its level and status"),
    ("status", SPEC, "MUST · built", "MUST · done", f"{SPEC}:8: ORCH-9001 does not tell its level and status"),
    (
        "gap",
        SPEC,
        BUILT,
        BUILT.replace("\nMUST", "\n\nMUST"),
        f"{SPEC}:8: ORCH-9001 does not tell its level and status",
    ),
    (
        "retired plain",
        SPEC,
        "MUST · built",
        "MUST · retired",
        f"{SPEC}:8: ORCH-9001 does not tell its level and status",
    ),
    ("built DEPR", SPEC, "MUST · retired", "MUST · built", f"{SPEC}:19: ORCH-9003-DEPR does not tell its level"),
    (
        "dash",
        SPEC,
        "ORCH-9001 — ",
        "ORCH-9001 - ",
        f"{SPEC}:7: this heading is no requirement; write `### ORCH-nnnn — T",
    ),
    ("five digits", SPEC, "ORCH-9001 — ", "ORCH-90011 — ", f"{SPEC}:7: this heading is no requirement"),
    ("four hashes", SPEC, "### ORCH-9001", "#### ORCH-9001", f"{SPEC}:7: this heading is no requirement"),
    ("no title", SPEC, "ORCH-9001 — Posting", "ORCH-9001 — ", f"{SPEC}:7: this heading is no requirement"),
    ("no section", SPEC, "## Asking\n", "\n", f"{SPEC}:7: ORCH-9001 stands under no section"),
    ("no keyword", SPEC, "task MUST be", "task is", f"{SPEC}:7: ORCH-9001 says no MUST"),
    ("small letters", SPEC, "task MUST be", "task must be", f"{SPEC}:7: ORCH-9001 says no MUST"),
    ("second keyword", SPEC, "is no keyword", "MUST be", f"{SPEC}:11: ORCH-9001 says a second keyword, MUST"),
    ("other keyword", SPEC, "task MUST be", "task MAY be", f"{SPEC}:10: ORCH-9001 is a MUST and says MAY"),
    ("foreign word", SPEC, "task MUST be", "task SHALL be", f"{SPEC}:10: ORCH-9001 is a MUST and says SHALL"),
    ("below a section", SPEC, "## Asking\n", "## Asking\nIt MAY.\n", f"{SPEC}:6: MAY stands outside a requirement"),
    ("same title", SPEC, "— Listing", "— Posting", f"{SPEC}:13: ORCH-9002 has the title of ORCH-9001"),
]
LINKS = [
    (
        "operation",
        DATA,
        "      x-req-id: [ORCH-9001, ORCH-9002]\n",
        "",
        f"{DATA}:3: operation postTask has no x-req-id",
    ),
    ("operation's list", DATA, "[ORCH-9001, ORCH-9002]", "[]", f"{DATA}:3: operation postTask has no x-req-id"),
    ("response", DATA, "          x-req-id: ORCH-9001\n", "", f"{DATA}:7: response postTask 202 has no x-req-id"),
    (
        "shared response",
        DATA,
        "Bad:\n      x-req-id: ORCH-9001\n",
        "Bad:\n",
        f"{DATA}:13: response Bad has no x-req-id; name the r",
    ),
    ("dead reference", DATA, "responses/Bad'", "responses/Gone'", f"{DATA}:10: response postTask 400 has no x-req-id"),
    ("broken YAML", DATA, "paths:\n", "paths: [\n", f"{DATA}:3: expected"),
    (
        "no id",
        DATA,
        "        '202':\n          x-req-id: ORCH-9001",
        "        '202':\n          x-req-id: O-1",
        f"{DATA}:8: 'O-1' is",
    ),
    (
        "unknown in contract",
        CONTROL,
        "ORCH-9002",
        "ORCH-9009",
        f"{CONTROL}:5: ORCH-9009 stands in no specification; mend",
    ),
    (
        "unknown in a header",
        DATA,
        "Place:\n      x-req-id: ORCH-9002",
        "Place:\n      x-req-id: ORCH-9009",
        f"{DATA}:18: ORCH-9009",
    ),
    (
        "unknown in code",
        CODE,
        "ORCH-9001, ORCH-9002",
        "ORCH-9001, ORCH-9009",
        f"{CODE}:13: ORCH-9009 stands in no spec",
    ),
    (
        "unknown in a comment",
        CODE,
        "class Queue:",
        "# See ORCH-9009.\nclass Queue:",
        f"{CODE}:7: ORCH-9009 stands in no",
    ),
    ("unknown in a test", TEST, '"ORCH-9002"', '"ORCH-9009"', f"{TEST}:8: ORCH-9009 stands in no specification"),
    ("unknown in a spec", SPEC, "dropped", "dropped for ORCH-9009", f"{SPEC}:21: ORCH-9009 stands in no specification"),
    (
        "unknown in a metric",
        METRICS,
        '["ORCH-9002"]',
        '["ORCH-9009"]',
        f"{METRICS}:3: ORCH-9009 stands in no specification",
    ),
    (
        "code's comma",
        CODE,
        "ORCH-9001, ORCH-9002",
        "ORCH-9001,",
        f"{CODE}:13: '' is no requirement id; write ORCH- and four",
    ),
    (
        "code's words",
        CODE,
        "ORCH-9001, ORCH-9002",
        "ORCH-9001 partly",
        f"{CODE}:13: 'ORCH-9001 partly' is no requirement id",
    ),
    (
        "computed mark",
        TEST,
        '"ORCH-9001", "ORCH-9002"',
        "*IDS",
        f"{TEST}:8: this mark does not spell out its ids; write",
    ),
    (
        "empty mark",
        TEST,
        '"ORCH-9001", "ORCH-9002"',
        "",
        f"{TEST}:8: this mark does not spell out its ids; write them:",
    ),
    (
        "metric",
        METRICS,
        ', "req": ["ORCH-9002"]',
        "",
        f"{METRICS}:3: metric 'wait_ms' cites no requirement; name the req",
    ),
    ("broken JSON", METRICS, '{"metrics": [', '{"metrics" [', f"{METRICS}:1: "),
    (
        "retired in code",
        CODE,
        "ORCH-9001, ORCH-9002",
        "ORCH-9003",
        f"{CODE}:13: ORCH-9003 is retired; cite the requirement",
    ),
    (
        "retired in full",
        TEST,
        '"ORCH-9002"',
        '"ORCH-9003-DEPR"',
        f"{TEST}:8: ORCH-9003-DEPR is retired; cite the requirem",
    ),
    (
        "retired in a text",
        SPEC,
        "dropped",
        "ORCH-9003 once",
        f"{SPEC}:21: ORCH-9003 is retired; write ORCH-9003-DEPR to",
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "line"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS])
def test_a_wrong_form_is_told(tmp_path: Path, name: str, old: str, new: str, line: str) -> None:
    """A requirement that is not written as requirements are is told with its line."""
    found = told(tmp_path, changed(name, old, new))
    assert any(fault.startswith(line) for fault in found), found


@pytest.mark.parametrize(("name", "old", "new", "line"), [case[1:] for case in LINKS], ids=[case[0] for case in LINKS])
def test_a_bad_link_is_told(tmp_path: Path, name: str, old: str, new: str, line: str) -> None:
    """A citation that is missing, unreadable, unknown or retired is told with its line."""
    found = told(tmp_path, changed(name, old, new))
    assert any(fault.startswith(line) for fault in found), found


def test_an_unlinked_interaction_is_told(tmp_path: Path) -> None:
    """An interaction that cites nothing is told at its own description."""
    files = {**SOUND, PACT: pact(interaction("a task", "ORCH-9001"), {"description": "a list"})}
    line = next(number for number, text in enumerate(files[PACT].splitlines(), start=1) if "a list" in text)
    assert told(tmp_path, files) == [
        f"{PACT}:{line}: pact 'a list' cites no requirement; give the interaction its `req` and record the pact again"
    ]


def test_a_must_without_test_is_told(tmp_path: Path) -> None:
    """A built MUST that no test names is told at its heading, with what to write."""
    found = told(tmp_path, {**SOUND, TEST: "def test_push() -> None: ...\n"})
    assert found == [
        (
            f"{SPEC}:7: ORCH-9001 is a MUST, built, and has no test; mark the test that shows it with "
            '@pytest.mark.req("ORCH-9001"), or call it planned'
        )
    ]


def test_a_mark_where_no_test_stands_proves_nothing(tmp_path: Path) -> None:
    """A mark in a module without tests, or in the tests' machinery, does not count as a test."""
    text = 'pytestmark = pytest.mark.req("ORCH-9001")\n'
    files = {**SOUND, TEST: text, "tests/unit/conftest.py": text + "def test_like() -> None: ...\n"}
    assert [fault.split("; ")[0] for fault in told(tmp_path, files)] == [
        f"{SPEC}:7: ORCH-9001 is a MUST, built, and has no test"
    ]


def test_a_must_without_code_is_told(tmp_path: Path) -> None:
    """A built MUST that no code names is told; naming it in the tests' own machinery is not enough."""
    files = {**SOUND, CODE: "", "tests/driving.py": SOUND[CODE]}
    assert told(tmp_path, files) == [
        (
            f"{SPEC}:7: ORCH-9001 is a MUST, built, and has no code; "
            "put `Req: ORCH-9001` into the docstring of what does it, or call it planned"
        )
    ]


@pytest.mark.parametrize("place", ["tests/driving.py", "tools/judge.py"])
def test_proof_may_be_the_work_of_the_tests(tmp_path: Path, place: str) -> None:
    """What is promised about verification is kept by tools and by the tests' machinery."""
    files = {**changed(SPEC, "## Asking", "## Proof"), CODE: "", place: SOUND[CODE]}
    assert told(tmp_path, files) == []


@pytest.mark.parametrize(
    ("place", "comment"),
    [
        ("deploy/prometheus/alerts.yaml", "# {}"), ("Makefile", "# {}"), (".ci/run", "# {}"),
        (".github/pull_request_template.md", "<!-- {} -->"),
    ],
)  # fmt: skip
def test_what_is_deployed_cites_in_comments(tmp_path: Path, place: str, comment: str) -> None:
    """A `Req:` comment of what has no docstrings counts as code, and its ids are judged."""
    files = {**SOUND, CODE: "", place: "all:\n" + comment.format("Req: ORCH-9001") + "\n"}
    assert told(tmp_path, files) == []
    wrong = {**files, place: comment.format("Req: ORCH-9001, ORCH-9009") + "\n"}
    assert [fault.split(";")[0] for fault in told(tmp_path, wrong)] == [
        f"{place}:1: ORCH-9009 stands in no specification"
    ]


def test_an_id_used_twice_is_told_and_refused(tmp_path: Path) -> None:
    """The second heading of an id is told with the place of the first, and nothing is written."""
    files = {**SOUND, "specs/sessions.md": "# S\n\n## S\n\n### ORCH-9001 — Other\nMAY · planned\n\nIt MAY.\n"}
    assert told(tmp_path, files) == [
        f"specs/sessions.md:5: ORCH-9001 stands already at {SPEC}:7; give this one a free id from 4000 up"
    ]
    assert main([], tmp_path) == 1
    assert not (tmp_path / INDEX).exists()


HISTORY = [
    (
        "vanished",
        "### ORCH-9002 — Listing\nSHOULD · planned\n\nTasks SHOULD NOT be listed twice.\n\n",
        "",
        f"{INDEX}:21: ORCH-9002 (Listing) vanished; put it back, or retire it: `### ORCH-9002-DEPR — Listing`",
    ),
    (
        "renumbered",
        "### ORCH-9002",
        "### ORCH-9010",
        f"{SPEC}:13: ORCH-9010 has the title that ORCH-9002 had; a promise",
    ),
    (
        "moved",
        "— Listing\n",
        "— Listing tasks\nMAY · planned\n\nIt MAY.\n\n### ORCH-9010 — Listing\n",
        f"{SPEC}:18: ORCH-9010 has the title that ORCH-9002 had; a promise keeps its number: call it ORCH-9002 again",
    ),
    (
        "back from retirement",
        RETIRED,
        RETIRED.replace("-DEPR", "").replace("retired", "planned"),
        f"{SPEC}:18: ORCH-9003 comes",
    ),
    ("retired and forgotten", RETIRED, "Nothing.\n", f"{INDEX}:39: ORCH-9003-DEPR (Guessing) vanished"),
]


@pytest.mark.parametrize(("old", "new", "line"), [case[1:] for case in HISTORY], ids=[case[0] for case in HISTORY])
def test_ids_are_for_ever(tmp_path: Path, old: str, new: str, line: str) -> None:
    """What became of an id that the last index has is told, and the index is not written over."""
    plant(tmp_path, SOUND)
    assert main([], tmp_path) == 0
    before = (tmp_path / INDEX).read_text(encoding="utf-8")
    found = told(tmp_path, changed(SPEC, old, new))
    assert found[0].startswith(line), found
    assert main([], tmp_path) == 1
    assert (tmp_path / INDEX).read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("— Listing\nSHOULD · planned\n\nTasks SHOULD NOT be listed twice.", "— Old ways\nMAY · planned\n\nIt MAY."),
        ("ORCH-9002 — Listing\nSHOULD · planned", "ORCH-9002-DEPR — Listing\nSHOULD · retired"),
    ],
    ids=["reworded", "retired"],
)
def test_rewording_and_retiring_are_allowed(tmp_path: Path, old: str, new: str) -> None:
    """An id may get a new title, and may be retired."""
    plant(tmp_path, SOUND)
    assert main([], tmp_path) == 0
    plant(tmp_path, changed(SPEC, old, new))
    assert refusals(tmp_path, read_evidence(tmp_path)) == []


def git(root: Path, *arguments: str) -> None:
    """Run git in a tree, whoever runs it."""
    name = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *name, *arguments], cwd=root, check=True, capture_output=True)


def test_the_last_commit_is_what_ids_are_held_against(tmp_path: Path) -> None:
    """An index that was deleted or rewritten by hand does not make a committed id free."""
    plant(tmp_path, SOUND)
    assert main([], tmp_path) == 0
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "First")
    plant(tmp_path, changed(SPEC, "### ORCH-9002 — Listing", "### ORCH-9010 — Showing"))
    (tmp_path / INDEX).unlink()
    found = [str(fault) for fault in refusals(tmp_path, read_evidence(tmp_path))]
    assert [fault.split(";")[0] for fault in found] == [f"{INDEX}:21: ORCH-9002 (Listing) vanished"]


def test_every_entry_of_a_pact_is_judged(tmp_path: Path) -> None:
    """An unknown id in a pact is told at its very line."""
    files = {**SOUND, PACT: json.dumps({"interactions": [interaction("a task", "ORCH-9009")]}, indent=2)}
    assert [fault.split(";")[0] for fault in told(tmp_path, files)] == [
        f"{PACT}:7: ORCH-9009 stands in no specification"
    ]


def test_gen_refuses_while_an_id_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make gen` writes nothing either, says why, and fails."""
    plant(tmp_path, SOUND)
    assert main([], tmp_path) == 0
    plant(tmp_path, changed(SPEC, "### ORCH-9002", "### ORCH-9010"))
    monkeypatch.setattr(output, "ROOT", tmp_path)
    monkeypatch.setattr(gen, "stale_files", lambda: stale.differing(output.generate()))
    before = (tmp_path / INDEX).read_text(encoding="utf-8")
    assert gen.main([]) == 1
    assert capsys.readouterr().err.startswith(f"{SPEC}:13: ORCH-9010 has the title that ORCH-9002 had; ")
    assert (tmp_path / INDEX).read_text(encoding="utf-8") == before
