"""The pipeline counts right and never calls an empty or broken run a success."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import check, stages

ROOT = Path(__file__).resolve().parents[2]
PASSING = "def test_a(): pass\n"
FAILING = "def test_b(): assert False\n"
BROKEN = "import nothing_of_that_name\n"
SETUP_ERROR = "import pytest\n@pytest.fixture\ndef bad(): raise ValueError\ndef test_c(bad): pass\n"
SKIPPED = "import pytest\n@pytest.mark.skip\ndef test_d(): pass\n"


def planted(root: Path, **texts: str) -> stages.Stage:
    """Plant test files and return a stage that runs them."""
    folder = root / "tests" / "unit"
    folder.mkdir(parents=True)
    (root / "pytest.ini").write_text("[pytest]\n")
    for name, text in texts.items():
        (folder / f"test_{name}.py").write_text(text)
    return stages.Stage("unit", ("tests/unit",))


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ({"a": PASSING}, "1 passed, 0 failed"),
        ({"a": PASSING, "b": FAILING}, "1 passed, 1 failed"),
        ({"a": PASSING, "b": BROKEN}, "0 passed, 1 failed"),
        ({"a": PASSING, "c": SETUP_ERROR}, "1 passed, 1 failed"),
        ({"a": PASSING, "d": SKIPPED}, "1 passed, 0 failed, 1 skipped"),
        ({"e": "x = 1\n"}, "0 passed, 1 failed"),
    ],
)
def test_stage_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: dict[str, str], line: str) -> None:
    """Passed, failed, broken and skipped tests are counted, and a stage that collects nothing has failed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    assert stages.run_stage(planted(tmp_path, **texts), tmp_path).tally.closing_line() == line


def test_compiled_modules_are_kept_out_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons that a stage starts find them, also where whoever ran it keeps none; beside the sources there are none."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert stages.run_stage(planted(tmp_path, a=PASSING), tmp_path).tally == stages.Tally(passed=1)
    kept = list(tmp_path.rglob("test_a.*.pyc"))
    assert [path.relative_to(tmp_path).parts[:2] for path in kept] == [(".venv", "pycache")]


def test_absent_stage_is_a_failure(tmp_path: Path) -> None:
    """A stage whose folder is gone has failed; nothing is left out in silence."""
    assert stages.run_stage(stages.Stage("haiku", ("tests/haiku",)), tmp_path).tally == stages.Tally(failed=1)


def runs_of(monkeypatch: pytest.MonkeyPatch, failing: str, argv: list[str]) -> tuple[list[str], int]:
    """Run the command line with stages that only say their names, one of them red."""
    ran: list[str] = []

    def run_stage(stage: stages.Stage, _root: Path) -> stages.StageRun:
        ran.append(stage.name)
        return stages.StageRun(stage, stages.Tally(2, int(stage.name == failing)), 1.0)

    monkeypatch.setattr(stages, "run_stage", run_stage)
    return ran, stages.main(argv)


@pytest.mark.req("ORCH-4047")
def test_first_red_stage_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing runs after a red stage, and the summary says so, names the way out and closes with the total."""
    ran, status = runs_of(monkeypatch, "consumer", [])
    assert (ran[-1], status) == ("consumer", 1)
    shown = capsys.readouterr().out.splitlines()
    assert "RED    consumer      2 passed, 1 failed (1 s)" in shown
    assert any(line.startswith("not run, because consumer is red: stub provider") for line in shown)
    assert any("make ci STAGE=consumer" in line for line in shown)
    assert shown[-1] == f"{2 * len(ran)} passed, 1 failed"


@pytest.mark.req("ORCH-4047")
def test_stages_run_in_the_order_of_their_dependence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks, consumer, stub, provider, properties, simulation, metrics, determinism, haiku and documents, in that order."""
    ran, status = runs_of(monkeypatch, "", ["--keep-going"])
    wanted = ["precommit", "consumer", "stub", "provider", "properties", "simulation"]
    wanted += ["metrics", "determinism", "haiku", "docs"]
    assert [name for name in ran if name in wanted] == wanted
    assert status == 0


@pytest.mark.req("ORCH-4047", "ORCH-4243")
@pytest.mark.parametrize(("gpu", "here"), [("here", True), ("elsewhere", False), ("only", True)])
def test_one_switch_moves_the_gpu_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpu: str, here: bool
) -> None:
    """`--gpu` leaves determinism and haiku out, said in the summary, or runs nothing else."""
    ran, status = runs_of(monkeypatch, "", ["--gpu", gpu])
    assert status == 0
    assert ({"determinism", "haiku"} <= set(ran)) is here
    assert (len(ran) == 2) is (gpu == "only")
    assert ("moved to the GPU host: determinism haiku" in capsys.readouterr().out) is not here


def test_keep_going_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--keep-going` a red stage stops nothing and the run still fails."""
    ran, status = runs_of(monkeypatch, "consumer", ["--keep-going"])
    assert (len(ran), status) == (sum(not stage.apart for stage in stages.STAGES), 1)


@pytest.mark.req("ORCH-4434")
def test_a_stage_apart_runs_only_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` leaves it out wherever its GPU stages run; by its name it is chosen."""
    apart = {stage.name for stage in stages.STAGES if stage.apart}
    assert "vllm" in apart
    for gpu in ("here", "elsewhere", "only"):
        assert not apart & {stage.name for stage in stages.choose([], gpu)}
    ran, _ = runs_of(monkeypatch, "", ["vllm"])
    assert ran == ["vllm"]


@pytest.mark.req("ORCH-4434")
def test_a_stage_apart_whose_engine_is_missing_is_red(tmp_path: Path) -> None:
    """Nothing is skipped: without what it wants built, the stage counts as failed before any test runs."""
    (tmp_path / "absent.py").write_text("import sys\nsys.exit('run: make engines-x')\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text(PASSING)
    run = stages.run_stage(stages.Stage("x", ("tests",), apart="absent"), tmp_path)
    assert run.tally == stages.Tally(failed=1)
    (tmp_path / "absent.py").write_text("")
    assert stages.run_stage(stages.Stage("x", ("tests",), apart="absent"), tmp_path).tally == stages.Tally(1)


def test_unreadable_report_is_a_failure(tmp_path: Path) -> None:
    """A run that left no report counts as failed."""
    assert stages.read_tally(tmp_path / "none.xml") == stages.Tally(failed=1)


def test_unknown_stage_is_refused() -> None:
    """A stage that does not exist is refused by name."""
    command = [sys.executable, "-m", "tools.stages", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown stage: nonsense" in done.stderr


def test_every_stage_folder_is_its_own() -> None:
    """No folder belongs to two stages, so no test runs twice; what one leaves out another runs."""
    folders = [folder for stage in stages.STAGES for folder in stage.folders]
    assert len(folders) == len(set(folders))
    inside = [(a, b) for a in stages.STAGES for b in folders for c in a.folders if b.startswith(f"{c}/")]
    assert [b for a, b in inside if b not in a.without] == []
    assert {b for a in stages.STAGES for b in a.without} <= set(folders)


@pytest.mark.parametrize(
    ("tests", "line"),
    [
        ("def test_a(): assert [sign(n) for n in (1, -1)] == [1, 0]\n", "1 passed, 0 failed"),
        ("def test_a(): assert sign(1) == 1\n", "1 passed, 1 failed"),
        ("def test_a(): assert sign(1) == 2\n", "0 passed, 1 failed"),
    ],
)
@pytest.mark.req("ORCH-4390")
def test_an_unreached_branch_is_a_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tests: str,
    line: str,
) -> None:
    """A stage that has to cover its sources fails on a branch that no test takes, and names the line."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    source = "def sign(n):\n    found = 0\n    if n > 0:\n        found = 1\n    return found\n"
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "signs.py").write_text(source)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().split("[tool.ruff]")[0])
    planted(tmp_path, a=f"import sys\nsys.path.insert(0, 'src')\nfrom signs import sign\n{tests}")
    stage = stages.Stage("coverage", ("tests/unit",), covered=("src",))
    assert stages.run_stage(stage, tmp_path).tally.closing_line() == line
    assert ("3->5" in capfd.readouterr().out) is (line == "1 passed, 1 failed")


def test_failing_check_names_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing check shows its output, its name and the way out, and is counted."""
    bad = check.Check("spelling", ("python", "-c", "print('muddle'); raise SystemExit(1)"), "mend it")
    good = check.Check("types", ("python", "-c", ""), "none")
    monkeypatch.setattr(check, "CHECKS", (bad, good))
    assert check.run_checks(tmp_path) == 1
    shown = capsys.readouterr().out
    assert "muddle\nFAILED  spelling: mend it\nok      types" in shown


def test_long_output_is_cut(tmp_path: Path) -> None:
    """A check that says too much is cut, with the command that says all."""
    verdict = check.Verdict(check.CHECKS[0], ok=False, output="x\n" * 100, seconds=0.1)
    assert check.shortened(verdict).splitlines()[-1] == "… 40 more lines: .venv/bin/mypy"
