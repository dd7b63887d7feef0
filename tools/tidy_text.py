"""Tidy rules on everything else: links, lock files, paths of somebody's machine."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from tools.tidy_tree import Finding, Tree

LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LOCK_LINE = re.compile(
    r"\#\ Compiled\ by\ `make\ lock`.*"
    r"|[A-Za-z0-9._-]+(\[[\w,-]+\])?==[\w.!+-]+(\ ;\ [\w\s.'\"<>=!()*-]+)?(\ \\)?"
    r"|\ {4}--hash=sha256:[0-9a-f]{64}(\ \\)?",
    re.VERBOSE,
)
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work|mnt|opt/pypi)/[\w.-]+")
REGISTRY_HOST = re.compile(
    r"(?:files\.)?pythonhosted\.org|(?<![\w-])pypi\.(?:org|python)|registry\.(?:npmjs|yarnpkg)", re.IGNORECASE
)
# These two spell out what they look for.
SELF = {"tools/tidy_text.py", "tests/tidy/test_rules_text.py"}


def slug(heading: str) -> str:
    """Turn a heading into the anchor that it gets when rendered.

    >>> slug("ORCH-2001 — Post a `task`")
    'orch-2001--post-a-task'
    """
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Return the anchors that a Markdown text offers."""
    headings = re.findall(r"^#{1,6} +(.+?)\s*#*$", text, re.MULTILINE)
    explicit = re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)
    return {slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings} | set(explicit)


def document_links(tree: Tree) -> Iterator[Finding]:
    """Find links in documents that lead nowhere."""
    known: dict[Path, set[str]] = {}
    for name in tree.files:
        if not name.endswith(".md"):
            continue
        text = FENCE.sub("", tree.text(name) or "")
        for match in LINK.finditer(text):
            target = match.group(1) or match.group(2)
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            problem = dangling(tree, name, target, known)
            if problem:
                yield Finding("document-links", name, problem)


def dangling(tree: Tree, name: str, target: str, known: dict[Path, set[str]]) -> str | None:
    """Say what is wrong with one relative link, or return None. `known` keeps the anchors of the files looked at."""
    path, _, anchor = target.partition("#")
    file = (tree.root / PurePosixPath(name).parent / unquote(path)).resolve() if path else tree.root / name
    if not file.exists():
        return f"link to {target}: no such file"
    if anchor and file.suffix == ".md":
        if file not in known:
            known[file] = anchors(file.read_text(encoding="utf-8"))
        if unquote(anchor) not in known[file]:
            return f"link to {target}: no such heading"
    return None


def lock_lines(tree: Tree) -> Iterator[Finding]:
    """Find lock lines that are more than a name, a version, a marker or a hash."""
    for name in tree.files:
        if name.startswith("locks/") and name.endswith(".lock"):
            for number, line in enumerate((tree.text(name) or "").splitlines(), start=1):
                if not LOCK_LINE.fullmatch(line):
                    yield Finding("lock-lines", f"{name}:{number}", "a lock holds names, versions and hashes only")


def machine_paths(tree: Tree) -> Iterator[Finding]:
    """Find paths of somebody's machine and hosts of package registries."""
    for name in tree.files:
        if name in SELF:
            continue
        for number, line in enumerate((tree.text(name) or "").splitlines(), start=1):
            for pattern, kind in ((MACHINE_PATH, "a path of one machine"), (REGISTRY_HOST, "a registry host")):
                found = pattern.search(line)
                if found:
                    yield Finding("machine-paths", f"{name}:{number}", f"{kind}: {found.group()}")


def import_contracts(tree: Tree) -> Iterator[Finding]:
    """Find parts of the product that no import contract names."""
    contracts = tomllib.loads(tree.text("pyproject.toml") or "").get("tool", {}).get("importlinter", {})
    named = set(re.findall(r"orchqueue\.(\w+)", str(contracts)))
    parts = {
        name.split("/")[2].removesuffix(".py") for name in tree.files if re.match(r"src/orchqueue/\w+(/|\.py$)", name)
    }
    for part in sorted(parts - named - {"__init__"}):
        yield Finding("import-contracts", f"src/orchqueue/{part}", "no import contract in pyproject.toml names it")


RULES = (document_links, lock_lines, machine_paths, import_contracts)
