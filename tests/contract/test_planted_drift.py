"""Every kind of drift turns a stage red, and the first line that it prints says what is wrong."""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import TypeAlias, TypeGuard, cast

import pytest

from tests.contract import drift
from tests.contract.drift import DOCUMENT, DRIFTS, PYTEST, TABLE, Command, Drift

Reds: TypeAlias = "dict[str, Future[Red]]"

pytestmark = [pytest.mark.req("ORCH-4048"), pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the tree once."""
    return drift.copy_of_the_tree(tmp_path_factory.mktemp("drift") / "clean")


@dataclass(frozen=True)
class Red:
    """What became of a planted drift. `row` is what the document must tell of it, `document` what it tells."""

    done: CompletedProcess[str]
    row: str
    document: str


def planted_and_run(planted: Drift, clean: Path, target: Path) -> Red:
    """Plant a drift in a copy of its own and run what must go red."""
    tree = drift.linked_copy(clean, target)
    drift.plant(planted, tree)
    done = drift.run(planted.command, tree)
    row = drift.row(planted, drift.first_line(done, tree))
    return Red(done, row, (tree / DOCUMENT.relative_to(drift.ROOT)).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def reds(clean: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Reds]:
    """Run the drifts that were asked for, two at a time, in the order of the tests."""
    asked = [cast("Drift", item.callspec.params["planted"]) for item in request.session.items if is_about_a_drift(item)]
    scratch = tmp_path_factory.mktemp("planted")
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            one.name: pool.submit(planted_and_run, one, clean, scratch / str(number))
            for number, one in enumerate(asked)
        }


def is_about_a_drift(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Tell whether a test is one of those below."""
    return isinstance(item, pytest.Function) and item.originalname == "test_a_planted_drift_turns_its_stage_red"


@pytest.mark.parametrize("planted", DRIFTS, ids=lambda one: one.name)
def test_a_planted_drift_turns_its_stage_red(planted: Drift, reds: Reds) -> None:
    """The narrowest command of the stage fails, and its first line is the one that docs/contracts.md tells."""
    red = reds[planted.name].result()
    assert red.done.returncode != 0, f"nothing went red:\n{red.done.stdout}{red.done.stderr}"
    told = f"write the table anew with `python -m tests.contract.drift`; the row is now\n{red.row}"
    assert red.row in red.document, told


def test_nothing_is_red_without_a_drift(clean: Path) -> None:
    """The same commands pass in a copy where nothing is planted, so that what goes red does so because of the drift."""
    nodes = [planted.command[-1] for planted in DRIFTS if "pytest" in planted.command]
    commands: set[Command] = {planted.command for planted in DRIFTS if "pytest" not in planted.command}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in pool.map(lambda command: drift.run(command, clean), [(*PYTEST, *nodes), *sorted(commands)]):
            assert done.returncode == 0, f"{done.args} fails in a clean copy:\n{done.stdout}{done.stderr}"


def test_a_copy_runs_its_own_code(clean: Path, tmp_path: Path) -> None:
    """Product, simulator, tools and tests come from the copy, not from the tree that it was made of."""
    tree = drift.linked_copy(clean, tmp_path / "tree")
    named = "orchqueue.http.app", "orchqueue_sim.main", "tools.gen", "tests.daemon"
    program = f"import importlib; print([importlib.import_module(name).__file__ for name in {named!r}])"
    (tree / "ask.py").write_text(program, encoding="utf-8")
    done = drift.run(("ask",), tree)
    parts = "src/orchqueue/http/app.py", "src/orchqueue_sim/main.py", "tools/gen.py", "tests/daemon.py"
    assert done.stdout.strip() == str([str(tree / part) for part in parts]), done.stderr
    assert str(tree) not in sys.path


def test_the_table_tells_of_every_drift_and_of_nothing_else() -> None:
    """There is one row for each drift, in order."""
    found = TABLE.search(DOCUMENT.read_text(encoding="utf-8"))
    assert found is not None
    rows = found.group().splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == [planted.name for planted in DRIFTS]
    assert len(DRIFTS) == 12
