"""Plant small bugs into modules of the core, one at a time, and list those that no plain test of the core notices.

`python -m tools.mutants [MODULE…]` works on a copy of the tree and stops after `--minutes`. It needs mutmut in
`.venv-mutants`, which `make mutants` builds. What survives is explained in docs/mutation.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUTMUT = ROOT / ".venv-mutants" / "bin" / "mutmut"
MODULES = (
    *("admission", "estimate", "fairness", "queue", "retry", "sessions", "slots", "task_states"),
    *("lines", "ranks", "shares", "policies/fair", "policies/fifo", "policies/round_robin", "policies/strict_priority"),
    *("habits", "inflow", "accounts", "ledger", "quotas"),
)
SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = [{modules}]
pytest_add_cli_args = ["-p", "no:randomly", "-q", "-x", "--hypothesis-seed=0"]
pytest_add_cli_args_test_selection = ["tests/unit/core"]
"""


def copy_tree(root: Path, into: Path) -> None:
    """Copy what git tracks, or would track, as it stands in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, into / name)


def settings_for(modules: list[str]) -> str:
    """Write mutmut's part of pyproject.toml.

    >>> settings_for(["queue", "policies/fair"]).splitlines()[3]
    'only_mutate = ["src/orchqueue/core/queue.py", "src/orchqueue/core/policies/fair.py"]'
    """
    return SETTINGS.format(modules=", ".join(f'"src/orchqueue/core/{module}.py"' for module in modules))


def survivors(listed: str) -> list[str]:
    r"""Read the names of the mutants that were not killed, with how each ended.

    >>> survivors("    orchqueue.core.slots.x_f__mutmut_1: survived\n    orchqueue.core.slots.x_f__mutmut_2: killed\n")
    ['orchqueue.core.slots.x_f__mutmut_1: survived']
    """
    lines = [line.strip() for line in listed.splitlines() if "__mutmut_" in line]
    return [line for line in lines if not line.endswith(": killed")]


def figures(listed: str) -> list[str]:
    r"""Count for each module what was planted and what was killed.

    >>> figures("orchqueue.core.slots.x_f__mutmut_1: survived\norchqueue.core.slots.x_f__mutmut_2: killed\n")
    ['slots: 2 planted, 1 killed']
    """
    ends: dict[str, list[bool]] = {}
    for line in listed.splitlines():
        if "__mutmut_" in line:
            module = line.strip().removeprefix("orchqueue.core.").partition(".x")[0]
            ends.setdefault(module, []).append(line.endswith(": killed"))
    return [f"{module}: {len(killed)} planted, {sum(killed)} killed" for module, killed in ends.items()]


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Plant small bugs into the core and list those that no test notices.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of src/orchqueue/core; {' '.join(MODULES)} else")
    parser.add_argument("--minutes", type=int, default=90, help="stop after this time (90)")
    cores = os.cpu_count() or 1
    parser.add_argument("--children", type=int, default=cores, help=f"so many mutants at once (one a core, {cores})")
    options = parser.parse_args(argv)
    if not MUTMUT.exists():
        print("mutmut is not there; `make mutants` installs it", file=sys.stderr)
        return 2
    # The dependencies of the tests, without the project itself: its mutated copy must be the one that is imported.
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        copy_tree(ROOT, tree)
        with (tree / "pyproject.toml").open("a") as config:
            config.write(settings_for(options.modules or list(MODULES)))
        command = ["timeout", f"{options.minutes}m", str(MUTMUT), "run", "--max-children", str(options.children)]
        status = subprocess.run(command, cwd=tree, check=False, env=environment).returncode
        asked = [str(MUTMUT), "results", "--all", "true"]
        listed = subprocess.run(asked, cwd=tree, check=False, env=environment, capture_output=True, text=True).stdout
        left = survivors(listed)
        for line in left:
            name = line.partition(":")[0]
            shown = subprocess.run(
                [str(MUTMUT), "show", name], cwd=tree, check=False, env=environment, capture_output=True, text=True
            ).stdout.splitlines()
            changed = [one for one in shown if one[:1] in "+-" and not one.startswith(("+++", "---"))]
            print("\n".join([line, *changed]))
    print("\n".join(figures(listed)))
    print(f"{len(left)} not killed; docs/mutation.md explains those that are known")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
