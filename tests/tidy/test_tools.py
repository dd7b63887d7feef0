"""Each outside tool, under our settings, is seen catching a planted fault."""

import shutil
from pathlib import Path

import pytest

from tests.tidy.planting import plant
from tools import check

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {entry.name: entry for entry in check.CHECKS}
CLEAN = {
    "src/orchqueue/__init__.py": '"""The product."""\n\n__version__ = "0"\n',
    "src/orchqueue_sim/__init__.py": '"""The simulator."""\n',
    "tools/__init__.py": '"""Tools."""\n',
    "tests/conftest.py": '"""Fixtures."""\n',
    "README.md": "# Product\n",
    "LICENSE": "Text.\n",
}
MODULE = "src/orchqueue/planted.py"
HEAD = '"""Planted."""\n\n'

PLANTS = [
    ("format", "x = {  'a':1 }\n", "would be reformatted"),
    ("lint", "def start() -> None:\n    pass\n", "D103"),
    ("lint", '"""Planted."""\n\nimport os\n', "F401"),
    ("lint", "import datetime\n\nNOW = datetime.datetime.now()\n", "DTZ005"),
    ("lint", "import asyncio\n\nLOOP = asyncio.get_event_loop()\n", "TID251"),
    ("lint", 'print("x")\n', "T201"),
    ("lint", "# x = 1\n", "ERA001"),
    ("types", "def start(count):\n    return count\n", "no-untyped-def"),
    ("types", 'COUNT: int = "one"\n', "assignment"),
    ("types", "from typing import Any\n\nX: list = []\n", "type-arg"),
    ("types", "X = 1  # type: ignore\n", "unused-ignore"),
    ("dependencies", "import numpy\n", "DEP001 'numpy' imported but missing"),
    ("dependencies", "import pytest\n", "DEP004 'pytest' imported but declared as a dev dependency"),
    ("dependencies", "", "DEP002 'uvicorn' defined as a dependency but not used"),
    ("spelling", "# I reci" + "eve it.\n", "receive"),
]


@pytest.mark.parametrize(("name", "text", "told"), PLANTS)
def test_planted_fault_is_caught(tmp_path: Path, name: str, text: str, told: str) -> None:
    """The check fails and names the fault."""
    plant(tmp_path, {**CLEAN, MODULE: HEAD + text})
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    verdict = check.run_check(CHECKS[name], tmp_path)
    assert not verdict.ok
    assert told in verdict.output


@pytest.mark.parametrize("name", ["format", "lint", "types", "spelling"])
def test_clean_tree_passes(tmp_path: Path, name: str) -> None:
    """The same tree without the fault passes, so the fault is what was caught."""
    plant(tmp_path, CLEAN)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    verdict = check.run_check(CHECKS[name], tmp_path)
    assert verdict.ok, verdict.output
