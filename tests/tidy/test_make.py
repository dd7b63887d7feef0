"""The Makefile teaches, passes arguments through untouched and refuses an old Python."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make without the variables of a make that may be running us."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, env=environment)


def test_help_names_every_target() -> None:
    """Plain make lists every target with a word on each."""
    listed = set(re.findall(r"^  make ([\w-]+) +\S", make().stdout, re.MULTILINE))
    assert listed == set(re.findall(r"^\.PHONY: ([\w-]+)$", MAKEFILE, re.MULTILINE))
    assert {
        "setup",
        "demo",
        "serve",
        "test",
        "check",
        "sim",
        "sim-replay",
        "bench",
        "gen",
        "gen-check",
        "lock",
    } <= listed


@pytest.mark.parametrize("prompt", ["It's \"5\" o'clock", "$HOME $(shell echo no) ${PATH}", "`id`; # ; ünï \\n %s"])
def test_prompt_arrives_as_typed(tmp_path: Path, prompt: str) -> None:
    """Quotes, dollars and backticks in PROMPT reach the demo unchanged."""
    (tmp_path / "show.mk").write_text(f'include {ROOT}/Makefile\nshow:\n\t@printf "%s" "$$DEMO_PROMPT"\n')
    assert make("-f", "show.mk", "show", f"PROMPT={prompt}", cwd=tmp_path).stdout == prompt


def test_old_python_is_refused(tmp_path: Path) -> None:
    """Setup under a Python that is too old says so and how to name another, and makes nothing."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "locks").mkdir()
    for name in ("dev.lock", "weights.lock"):
        (tmp_path / "locks" / name).write_text("")
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("recipe", "closing", "status"),
    [
        ("@echo 12 passed, 0 failed", "12 passed, 0 failed", 0),
        ("@echo 11 passed, 1 failed; false", "11 passed, 1 failed", 2),
        ("@echo died early; false", "0 passed, 1 failed", 2),
    ],
)
def test_ci_closes_with_the_total(tmp_path: Path, recipe: str, closing: str, status: int) -> None:
    """The last line of `.ci/run` is the total and its status that of make, whatever make prints after it."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_text((ROOT / ".ci" / "run").read_text())
    (tmp_path / "Makefile").write_text(f"test:\n\t{recipe}\n")
    done = subprocess.run(["bash", str(script)], check=False, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == closing
    assert done.returncode == status
