"""The repository keeps its own rules."""

from pathlib import Path

import pytest

from tools import lock, tidy
from tools.tidy_tree import Tree

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("rule", tidy.RULES, ids=lambda rule: rule.__name__)
def test_repository_is_tidy(rule: tidy.Rule) -> None:
    """No file of the repository breaks the rule."""
    broken = "\n".join(str(finding) for finding in rule(Tree(ROOT)))
    assert not broken, broken


def test_the_rules_see_the_repository() -> None:
    """The rules look at this very file and at the locks, so that an empty answer means something."""
    assert {"tests/tidy/test_repository.py", "locks/dev.lock", "pyproject.toml"} <= set(Tree(ROOT).files)


def test_lock_drops_all_but_pins() -> None:
    """Indexes, links and notes of the compiler never reach a lock."""
    text = "--index-url https://mirror.example/simple\n# by x\na==1 \\\n    --hash=sha256:00\n    # via b\n"
    assert lock.strip_comments(text) == "a==1 \\\n    --hash=sha256:00\n"
