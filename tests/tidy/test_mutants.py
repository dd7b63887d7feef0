"""Mutation testing works on the tree as it stands, and never in it."""

import subprocess
from pathlib import Path

from tools import mutants

ROOT = Path(__file__).resolve().parents[2]


def test_the_copy_is_the_working_tree_without_what_git_ignores(tmp_path: Path) -> None:
    """Changed and new files are copied as they are, ignored and deleted ones are not."""
    root, into = tmp_path / "root", tmp_path / "into"
    (root / "src").mkdir(parents=True)
    for name in ("src/kept.py", "gone.py"):
        (root / name).write_text("committed\n")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    (root / "src" / "kept.py").write_text("changed\n")
    (root / "src" / "new.py").write_text("new\n")
    (root / "gone.py").unlink()
    (root / ".gitignore").write_text("*.pyc\n")
    (root / "src" / "ignored.pyc").write_text("")
    mutants.copy_tree(root, into)
    found = {str(path.relative_to(into)): path.read_text() for path in into.rglob("*") if path.is_file()}
    assert found == {"src/kept.py": "changed\n", "src/new.py": "new\n", ".gitignore": "*.pyc\n"}


def test_the_modules_that_are_mutated_exist() -> None:
    """Nothing of the list was renamed away, so no module is left out in silence."""
    core = ROOT / "src" / "orchqueue" / "core"
    assert [name for name in mutants.MODULES if not (core / f"{name}.py").is_file()] == []
