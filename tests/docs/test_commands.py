"""Commands that the documents tell a reader to type exist, with the options shown."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from orchqueue.cli import parser as orchq
from orchqueue.daemon import main as orchestratord
from orchqueue_sim import main as orchq_sim

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "orchq": orchq.build_parser,
    "orchestratord": orchestratord.build_parser,
    "orchq-sim": orchq_sim.build_parser,
}
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = set(re.findall(r"\b([A-Z_]+)\b", (ROOT / "Makefile").read_text()))


def typed(page: Path) -> list[str]:
    """List what follows a prompt in the page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


COMMANDS = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in typed(page)]


def words(line: str) -> list[str]:
    """Split a line as a shell does, without assignments, redirections and what comes after a pipe."""
    inner = re.search(r"\$\((.*)\)", line)
    cut = re.split(r"\s[|<>]|\s#\s|\s#|<\(", inner[1] if inner else line)[0]
    return shlex.split(cut, comments=True)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
@pytest.mark.req("ORCH-4291")
def test_command_exists(page: str, line: str) -> None:
    """Our own commands and make targets in a console block parse as they stand."""
    command, *arguments = words(line) or [""]
    name = command.rpartition("/")[2]
    if name == "make":
        targets = [word for word in arguments if "=" not in word]
        assert set(targets) <= TARGETS, f"{page}: no such target in the Makefile: {line}"
        assert {word.partition("=")[0] for word in arguments if "=" in word} <= VARIABLES
    elif name in PARSERS:
        PARSERS[name]().parse_args(arguments)


@pytest.mark.req("ORCH-4291")
def test_there_is_something_to_check() -> None:
    """The first screen of the README has the two commands, and pages show commands of all three programs."""
    first_screen = (ROOT / "README.md").read_text().splitlines()[:25]
    assert any("make demo" in line for line in first_screen)
    assert any("make test" in line for line in first_screen)
    shown = {words(line)[0].rpartition("/")[2] for _, line in COMMANDS if words(line)}
    assert {"make", "orchq", "orchestratord"} <= shown
