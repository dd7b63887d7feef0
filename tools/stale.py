"""Compare generated files with what stands in the tree, and write them or show the difference."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


def differing(texts: Mapping[Path, str]) -> dict[Path, str]:
    """Keep the files whose text on disk is another one, or that are missing.

    Shape: {path: text it should have}.
    """
    return {path: text for path, text in texts.items() if _standing(path) != text}


def _standing(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def settle(stale: Mapping[Path, str], root: Path, *, only_check: bool) -> int:
    """Write stale files, or name each and print how it differs; return the exit status."""
    for path, text in stale.items():
        name = path.relative_to(root).as_posix()
        if only_check:
            print(f"{name} is not current: run `make gen` and commit what it writes", file=sys.stderr)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {name}")
    if only_check:
        # After all names, since a difference may be long.
        for path, text in stale.items():
            sys.stderr.writelines(_difference(path.relative_to(root).as_posix(), _standing(path) or "", text))
    return 1 if stale and only_check else 0


def _difference(name: str, standing: str, text: str) -> Iterator[str]:
    lines = difflib.unified_diff(
        standing.splitlines(),
        text.splitlines(),
        fromfile=f"{name} (as it stands)",
        tofile=f"{name} (generated)",
        lineterm="",
    )
    return (f"{line}\n" for line in lines)
