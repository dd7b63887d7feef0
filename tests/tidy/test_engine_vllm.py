"""The real vLLM is built once, and again only when what it is made of has changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import engine_vllm
from tools.engine_vllm import CONVERTER, IS_CPU_BUILD, LOCK, MODEL, VENV, main


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a tree whose builders only leave their folders."""
    for path in (LOCK, CONVERTER):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("one")
    monkeypatch.setattr(engine_vllm, "make_venv", lambda root: (root / VENV).mkdir(exist_ok=True))
    monkeypatch.setattr(engine_vllm, "make_model", lambda root, _: (root / MODEL).mkdir(parents=True, exist_ok=True))
    return tmp_path


def refuse(*_: object) -> None:
    """Fail where nothing should be built."""
    raise AssertionError("built again")


@pytest.mark.req("ORCH-4440")
def test_nothing_is_built_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run builds nothing and a check agrees; a changed lock makes the environment stale, and it alone."""
    assert main([], root) == 0
    assert main(["--check"], root) == 0
    (root / LOCK).write_text("another")
    assert main(["--check"], root) == 1
    monkeypatch.setattr(engine_vllm, "make_model", refuse)
    assert main([], root) == 0
    monkeypatch.setattr(engine_vllm, "make_venv", refuse)
    assert main([], root) == 0


@pytest.mark.req("ORCH-4440")
def test_a_build_that_fails_is_not_taken_for_done(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke off is begun again next time, also where an older build was there."""
    assert main([], root) == 0
    (root / CONVERTER).write_text("another")
    monkeypatch.setattr(engine_vllm, "make_model", refuse)
    with pytest.raises(AssertionError):
        main([], root)
    (root / CONVERTER).write_text("one")
    assert main(["--check"], root) == 1


@pytest.mark.req("ORCH-4440")
def test_check_names_what_is_missing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything was built, the check says what to run."""
    assert main(["--check"], root) == 1
    assert capsys.readouterr().err == ".venv-vllm is missing or stale: run `make engines-vllm`\n"


@pytest.mark.req("ORCH-4440")
@pytest.mark.parametrize(
    ("backends", "refused"),
    [
        ("cuda: str | None = None; hip: str | None = None", False),
        ("cuda = '13.0'; hip = None", True),
        ("cuda = None; hip = '7.1'", True),
    ],
)
def test_a_build_of_torch_for_gpus_is_told_before_torch_can_be_imported(
    tmp_path: Path, backends: str, refused: bool
) -> None:
    """What torch needs is not there yet when it is asked for its build, so that asking must not import it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import a_module_that_is_not_there_yet")
    (tmp_path / "torch" / "version.py").write_text(f"{backends}\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    asked = subprocess.run([sys.executable, "-c", IS_CPU_BUILD], env=env, check=False)
    assert asked.returncode == refused
