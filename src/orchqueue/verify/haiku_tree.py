"""Whether the checkout that one stands in holds an answer that was made beforehand."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchqueue.verify.haiku_words import folded, minutes_named


@dataclass(frozen=True)
class Search:
    """What was found in a tree. `root`: what was searched, None outside of any checkout."""

    root: Path | None
    found: tuple[str, ...] = ()


def search(directory: Path, minute: int, nonce: str) -> Search:
    """Look for `fixtures/haiku*` and for a line with both strings, in every file that git tracks or would track.

    Req: ORCH-4412
    """
    top = _git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        return Search(None)
    root = Path(top.strip())
    files = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    lines = _git(root, "grep", "--untracked", "--text", "-h", "-i", "-F", "-e", nonce) or ""
    found = [f"{name} is a prepared answer" for name in files.split("\0") if _is_fixture(name)]
    found += [
        f"a line holds both: {line.strip()[:100]}"
        for line in lines.splitlines()
        if nonce in folded(line) and minute in minutes_named(line.casefold().replace(nonce, " "))
    ]
    return Search(root, tuple(found))


def _is_fixture(name: str) -> bool:
    parts = PurePosixPath(name.casefold()).parts
    return any(parent == "fixtures" and child.startswith("haiku") for parent, child in itertools.pairwise(parts))


def _git(directory: Path, *arguments: str) -> str | None:
    """Run git; None where it is not installed, found no repository, or found nothing."""
    try:
        done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
