"""Twelve ways in which specification, contract, pact, code, tests and metrics drift apart, each to be planted in a copy.

`python -m tests.contract.drift` plants all of them and writes what was seen into the table of docs/contracts.md.

Req: ORCH-4048
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.tidy_tree import Tree

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "contracts.md"
TABLE = re.compile(r"(?<=<!-- drifts -->\n).*?(?=<!-- /drifts -->)", re.DOTALL)
RUN_DEADLINE_S = 280

UNMARKED = "ORCH-4104"
NEW_ID = f"ORCH-{4999}"

Command = tuple[str, ...]
TRACE: Command = ("tools.trace", "--check")
GENERATED: Command = ("tools.gen", "--check")
METRICS_LINT: Command = ("tools.metrics_lint",)
# One line for each failure; plugins that none of these tests needs take a second each time.
PYTEST: Command = (
    "pytest", "-q", "--no-header", "--tb=line", "--show-capture=no",
    *(part for plugin in ("randomly", "cacheprovider", "schemathesis", "syrupy", "inline_snapshot") for part in ("-p", f"no:{plugin}")),
)  # fmt: skip


def consumer(test: str) -> Command:
    """Run one test of the consumer stage."""
    return (*PYTEST, f"tests/contract/consumer/test_pact.py::{test}")


def provider(interaction: str) -> Command:
    """Verify one interaction against the real daemon."""
    return (*PYTEST, f"tests/contract/provider/test_interactions.py::test_the_daemon_keeps_the_pact[{interaction}]")


@dataclass(frozen=True)
class Drift:
    """One drift: a text that is replaced in one kind of file, and what must go red."""

    name: str
    path: str
    found: str
    put: str
    stage: str
    command: Command


DRIFTS = (
    Drift(
        "spec id renamed",
        "specs/orchestrator-spec.md",
        r"^### ORCH-2003 — ",
        f"### {NEW_ID} — ",
        "precommit",
        TRACE,
    ),
    Drift(
        "x-req-id dropped",
        "contracts/openapi/data.yaml",
        r"(operationId: getTask\n(?: +tags: .*\n)?) +x-req-id: .*\n",
        r"\1",
        "precommit",
        TRACE,
    ),
    Drift(
        "test marker removed",
        "tests/**/test_*.py",
        rf'^ *@pytest\.mark\.req\("{UNMARKED}"\)\n|, "{UNMARKED}"|"{UNMARKED}", ',
        "",
        "precommit",
        TRACE,
    ),
    Drift(
        "generated file edited",
        "src/orchqueue/schema/data.py",
        r"\Z",
        "\n\nclass Extra(Wire):\n    pass\n",
        "precommit",
        GENERATED,
    ),
    Drift(
        "schema loosened",
        "contracts/openapi/data.yaml",
        r"(^ +max_tokens: \{type: integer, minimum: 1), maximum: \d+",
        r"\1",
        "openapi",
        (*PYTEST, "tests/contract/openapi/test_documents.py::test_the_files_keep_every_rule[limits]"),
    ),
    Drift(
        "pact field changed",
        "contracts/pacts/orchq-cli-orchestratord.json",
        r'"ttl_ms_remaining": ',
        '"ttl_remaining_ms": ',
        "consumer",
        consumer("test_the_pact_file_is_current_and_written_alike_twice"),
    ),
    Drift(
        "header dropped in the handler",
        "src/orchqueue/http/routes_tasks.py",
        r' +\(b"x-queue-position", .*\),\n',
        "",
        "provider",
        provider("a task with defaults"),
    ),
    Drift(
        "status changed",
        "src/orchqueue/http/routes_sessions.py",
        r"Response\(204\)",
        "Response(202)",
        "provider",
        provider("the deletion of a session"),
    ),
    Drift(
        "SSE field renamed",
        "src/orchqueue/runtime/stream_frames.py",
        r'data: \{"t":%b,"i":%d\}',
        'data: {"t":%b,"index":%d}',
        "provider",
        provider("the stream of a task"),
    ),
    Drift(
        "metric label added",
        "ci/metrics.lint.json",
        r'("name": "tasks_started_total"[^[]*"labels": \[[^]]*)\]',
        r'\1, "tenant"]',
        "metrics",
        METRICS_LINT,
    ),
    Drift(
        "metric renamed",
        "ci/metrics.lint.json",
        r'"name": "tasks_started_total"',
        '"name": "tasks_begun_total"',
        "metrics",
        METRICS_LINT,
    ),
    Drift(
        "budget exceeded",
        "src/orchqueue/adapters/metrics.py",
        r"if len\(seen\) < self\._contract\.budgets\[label\]",
        "if len(seen) <= self._contract.budgets[label]",
        "metrics",
        (*PYTEST, "tests/metrics/test_contract.py::test_no_label_gets_past_its_budget[engine]"),
    ),
)


def copy_of_the_tree(target: Path) -> Path:
    """Copy what git has or would have, with the times of the files, and compile it."""
    for name in Tree(ROOT).files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    # Each copy of the copy takes the compiled modules along, so that they are not compiled for every drift.
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j2", "src", "tools"], cwd=target, check=True)
    return target


def linked_copy(clean: Path, target: Path) -> Path:
    """Copy the copy by hard links; a file must be replaced there, never written over."""
    return Path(shutil.copytree(clean, target, copy_function=os.link))


def plant(drift: Drift, tree: Path) -> None:
    """Apply a drift to a copy.

    Errors: AssertionError when there is nothing to change any more: then the drift must be described anew.
    """
    changed = 0
    for path in sorted(tree.glob(drift.path)):
        text = path.read_text(encoding="utf-8")
        planted, times = re.subn(drift.found, drift.put, text, flags=re.MULTILINE)
        if times:
            changed += 1
            path.unlink()
            path.write_text(planted, encoding="utf-8")
    assert changed, f"{drift.name}: {drift.found!r} is nowhere in {drift.path}; describe the drift anew"


def run(command: Command, tree: Path) -> subprocess.CompletedProcess[str]:
    """Run a module in a copy, with the copy's own code."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tree,
        env=environment(tree),
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_DEADLINE_S,
    )


def environment(tree: Path) -> Mapping[str, str]:
    """Give the variables under which the copy's code comes before the installed one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree / "src"), str(tree))), "PYTHONHASHSEED": "0"}


def first_line(done: subprocess.CompletedProcess[str], tree: Path) -> str:
    """Find the first line that tells what is wrong; paths are relative and lines unnumbered, as they move."""
    lines = (done.stderr + done.stdout).replace(f"{tree}/", "").splitlines()
    form = r"\S+\.py:\d+: \S" if "pytest" in done.args else r"\s*\S"
    said = next((line for line in lines if re.match(form, line)), "")
    said = re.sub(r"(\.\w+):\d+: ", r"\1: ", said)
    # A stream may hold a `metrics` event more on a slow machine.
    said = re.sub(r"\bevent \d+", "event n", said.replace(NEW_ID, "ORCH-nnnn"))
    return re.sub(r"^(\S+\.py: )AssertionError: ", r"\1", said).strip()


def row(drift: Drift, line: str) -> str:
    """Format a row of the table."""
    shown = line.replace("|", "\\|").replace("`", "'")
    return f"| {drift.name} | `{drift.path}` | {drift.stage} | `{shown}` |\n"


def document(rows: list[str]) -> str:
    """Put the rows into the document."""
    table = "| Drift | planted in | stage | first line |\n|---|---|---|---|\n" + "".join(rows)
    return TABLE.sub(lambda _: table, DOCUMENT.read_text(encoding="utf-8"))


def main() -> None:
    """Plant every drift and write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        clean = copy_of_the_tree(Path(scratch) / "clean")
        for number, drift in enumerate(DRIFTS):
            tree = linked_copy(clean, Path(scratch) / str(number))
            plant(drift, tree)
            done = run(drift.command, tree)
            rows.append(row(drift, first_line(done, tree)))
            sys.stdout.write(f"{done.returncode} {rows[-1]}")
    if DOCUMENT.exists():
        DOCUMENT.write_text(document(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
