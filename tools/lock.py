"""Compile the lock files: names, versions and hashes, and nothing that says where they came from.

`python -m tools.lock` recompiles, keeping the pins that still satisfy pyproject.toml; `--upgrade` lets them rise.
`python -m tools.lock --check` fails when a lock no longer satisfies pyproject.toml.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
HEADER = "# Compiled by `make lock`. Names, versions and hashes only; edit pyproject.toml or locks/*.in instead.\n"
COMMON_FLAGS = (
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-header",
    "--no-annotate",
    "--quiet",
)


def compile_lock(output: Path, flags: tuple[str, ...], *, upgrade: bool, pins_from: Path | None = None) -> None:
    """Write one lock file from the sources that the flags name.

    Errors: CalledProcessError when the compiler refuses.
    """
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / output.name
        if output.exists() and not upgrade:
            draft.write_text(output.read_text())
        constraint = (f"--constraints={pins_from}",) if pins_from else ()
        command = [sys.executable, "-m", "uv", "pip", "compile", f"--output-file={draft}"]
        subprocess.run([*command, *COMMON_FLAGS, *flags, *constraint], check=True, cwd=ROOT)
        output.write_text(HEADER + strip_comments(draft.read_text()))


def strip_comments(text: str) -> str:
    r"""Drop comment and option lines, so that no index, link or path can ride along.

    >>> strip_comments("# via x\n--index-url y\na==1 ; x\n")
    'a==1 ; x\n'
    """
    kept = [
        line
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("#") and not line.startswith("--")
    ]
    return "\n".join(kept) + "\n"


def compile_all(into: Path, *, upgrade: bool) -> None:
    """Write every lock into one folder; runtime and mutants repeat the pins of dev, bench and vllm stand alone."""
    product = ("pyproject.toml", "--extra=llamacpp")
    dev = into / "dev.lock"
    compile_lock(dev, (*product, "--group=dev"), upgrade=upgrade)
    compile_lock(into / "runtime.lock", (*product, "--group=build"), upgrade=upgrade, pins_from=dev)
    compile_lock(into / "weights.lock", ("locks/weights.in", "--no-deps"), upgrade=upgrade)
    compile_lock(into / "bench.lock", ("--group=bench",), upgrade=upgrade)
    compile_lock(into / "vllm.lock", ("locks/vllm.in", "--overrides=locks/vllm-overrides.in"), upgrade=upgrade)
    compile_lock(into / "triton.lock", ("locks/triton.in", "--no-deps"), upgrade=upgrade)
    compile_lock(into / "mutants.lock", ("--group=mutation",), upgrade=upgrade, pins_from=dev)


def stale_locks() -> list[str]:
    """Name the lock files that a recompilation would change."""
    with tempfile.TemporaryDirectory() as scratch:
        copies = Path(scratch)
        for lock in sorted(LOCKS.glob("*.lock")):
            (copies / lock.name).write_text(lock.read_text())
        compile_all(copies, upgrade=False)
        fresh = {path.name: path.read_text() for path in copies.glob("*.lock")}
    return sorted(
        name for name, text in fresh.items() if not (LOCKS / name).exists() or (LOCKS / name).read_text() != text
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Compile the lock files.")
    parser.add_argument("--upgrade", action="store_true", help="let pins rise to the newest allowed version")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a lock is stale")
    options = parser.parse_args(argv)
    if options.check:
        stale = stale_locks()
        for name in stale:
            print(f"locks/{name} does not match pyproject.toml: run `make lock`", file=sys.stderr)
        return 1 if stale else 0
    compile_all(LOCKS, upgrade=options.upgrade)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
