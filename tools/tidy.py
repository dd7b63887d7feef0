"""Check the house rules that no other tool checks.

`python -m tools.tidy` prints what is wrong and fails; `--list` names the rules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from tools import tidy_code, tidy_text
from tools.tidy_tree import Finding, Tree

ROOT = Path(__file__).resolve().parent.parent
Rule = Callable[[Tree], Iterable[Finding]]
RULES: tuple[Rule, ...] = (*tidy_code.RULES, *tidy_text.RULES)


def findings(root: Path) -> list[Finding]:
    """Apply every rule to one tree."""
    tree = Tree(root)
    return [finding for rule in RULES for finding in rule(tree)]


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Check the house rules.")
    parser.add_argument("--check", action="store_true", help="the only mode; accepted for symmetry with other tools")
    parser.add_argument("--list", action="store_true", help="name the rules")
    options = parser.parse_args(argv)
    if options.list:
        for rule in RULES:
            print(f"{rule.__name__.replace('_', '-'):18} {(rule.__doc__ or '').splitlines()[0]}")
        return 0
    found = findings(ROOT)
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
