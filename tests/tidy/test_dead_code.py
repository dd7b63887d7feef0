"""The search for dead code is seen finding it, and leaving live code alone."""

import shutil
from pathlib import Path

import pytest

from tests.tidy.planting import plant
from tools import dead_code

ROOT = Path(__file__).resolve().parents[2]


def unused(root: Path, files: dict[str, str]) -> list[str]:
    """Return what the search finds in a planted tree, under our own settings."""
    plant(root, files)
    shutil.copy(ROOT / "pyproject.toml", root / "pyproject.toml")
    return dead_code.unused(root)


def test_dead_names_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function, a method, a class and an option that nothing uses are found."""
    monkeypatch.chdir(tmp_path)
    found = unused(
        tmp_path,
        {
            "src/orchqueue/core/queue.py": "class Queue:\n    def push(self): ...\n    def gone(self): ...\n",
            "src/orchqueue/core/flow.py": "def lost(): ...\n\n\nclass Forgotten: ...\n",
            "src/orchqueue/config/types.py": "class Limits:\n    body_bytes: int = 1\n    rows: int = 2\n",
            "tests/unit/test_queue.py": "def test_push():\n    Queue().push(Limits().rows)\n",
        },
    )
    assert found == [
        "src/orchqueue/config/types.py:2: unused variable 'body_bytes'",
        "src/orchqueue/core/flow.py:1: unused function 'lost'",
        "src/orchqueue/core/flow.py:4: unused class 'Forgotten'",
        "src/orchqueue/core/queue.py:3: unused method 'gone'",
    ]


def test_live_names_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks of a framework, fields of plain structures and generated code pass."""
    monkeypatch.chdir(tmp_path)
    files = {
        "src/orchqueue/http/wire.py": "class P:\n    def data_received(self, data): ...\n    field: int = 1\nP()\n",
        "src/orchqueue/schema/data.py": "class Unused: ...\n",
        "tests/unit/test_x.py": "import pytest\n\n\n@pytest.fixture\ndef pool(): ...\n",
    }
    assert unused(tmp_path, files) == []
