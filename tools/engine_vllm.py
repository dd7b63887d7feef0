"""Build .venv-vllm, the real vLLM on a CPU, and the bundled weights in the form that it reads.

`python -m tools.engine_vllm` builds what is missing or stale; `--check` only says whether all is there. `make engines-vllm` runs it.

Req: ORCH-4440
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

from orchqueue.adapters.models import find_bundled

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(".venv-vllm")
MODEL = Path(".engines/smollm2-135m-instruct")
WEIGHTS = "smollm2-135m-instruct-q4_1"
LOCK = Path("locks/vllm.lock")
CONVERTER = Path("scripts/smollm2_to_hf.py")
TORCH = "torch==2.13.0"
"""Pinned by its version alone: ADR 0002 says why it has no hash."""

IS_CPU_BUILD = """
import runpy, sys
from importlib.util import find_spec
[package] = find_spec("torch").submodule_search_locations
version = runpy.run_path(f"{package}/version.py")
sys.exit(any(version.get(backend) for backend in ("cuda", "hip", "xpu")))
"""
"""Reads the build off torch without importing it: what torch itself needs comes later, with the lock."""


def told(*parts: str | bytes) -> str:
    """Digest what a thing is made of.

    >>> told("a", b"b") == told("ab")
    False
    """
    whole = sha256()
    for part in parts:
        whole.update(sha256(part.encode() if isinstance(part, str) else part).digest())
    return whole.hexdigest()


def is_fresh(stamp: Path, digest: str) -> bool:
    """Tell whether something was made of just these parts."""
    return stamp.is_file() and stamp.read_text() == digest


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"engines-vllm: {text}", flush=True)


def make_venv(root: Path) -> None:
    """Install the lock, and torch beside it.

    Errors: SystemExit where torch is no CPU build, CalledProcessError where pip fails.
    """
    python = str(root / VENV / "bin/python")
    if not Path(python).exists():
        say(f"making {VENV}")
        subprocess.run([sys.executable, "-m", "venv", str(root / VENV)], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    say(f"installing {TORCH} as a CPU build")
    subprocess.run([*pip, TORCH], check=True)
    if subprocess.run([python, "-c", IS_CPU_BUILD], check=False).returncode:
        raise SystemExit(
            "engines-vllm: torch came as a build for GPUs, which this vLLM cannot use. Take PyTorch's own index of CPU wheels, with"
            " PIP_INDEX_URL or PIP_EXTRA_INDEX_URL, remove .venv-vllm and run `make engines-vllm` again"
        )
    say(f"installing {LOCK}; the first time takes a minute or two and 2.4 GB")
    subprocess.run([*pip, "--require-hashes", "-r", str(root / LOCK)], check=True)


def make_model(root: Path, weights: Path) -> None:
    """Convert the weights.

    Errors: CalledProcessError where the converter fails.
    """
    say(f"converting {weights.name} into {MODEL}; 270 MB")
    subprocess.run([root / VENV / "bin/python", root / CONVERTER, weights, root / MODEL], check=True)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build the real vLLM for the tests that want one.")
    parser.add_argument("--check", action="store_true", help="build nothing; fail when something is missing or stale")
    options = parser.parse_args(argv)
    weights, weights_sha256 = find_bundled(WEIGHTS)
    lock, converter = ((root / path).read_bytes() for path in (LOCK, CONVERTER))
    steps = (
        (root / VENV / ".stamp", told(lock, TORCH), partial(make_venv, root)),
        (root / MODEL / ".stamp", told(converter, weights_sha256), partial(make_model, root, weights)),
    )
    for stamp, digest, make in steps:
        if is_fresh(stamp, digest):
            continue
        if options.check:
            print(f"{stamp.parent.name} is missing or stale: run `make engines-vllm`", file=sys.stderr)
            return 1
        stamp.unlink(missing_ok=True)
        make()
        stamp.write_text(digest)
    if not options.check:
        say(f"ready: {VENV} and {MODEL}; next: make ci STAGE=vllm")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
