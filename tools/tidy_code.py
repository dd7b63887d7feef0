"""Tidy rules on Python code: sizes, names, dead modules, what the core may import, how tests are written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tools.tidy_tree import Finding, Tree, functions

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
BANNED_WORDS = {
    "common", "helper", "helpers", "job", "jobs", "manager", "managers", "util", "utils", "worker", "workers",
}  # fmt: skip
# Two names are given from outside: an error code and a log field.
GIVEN_NAMES = re.compile(r"worker_?reset|job_?id", re.IGNORECASE)
CORE_IMPORTS = {
    "__future__", "bisect", "collections", "dataclasses", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "math",
    "msgspec", "operator", "orchqueue", "types", "typing", "zlib",
}  # fmt: skip
PAUSE_ALLOWED = {"tests/waiting.py"}
SENTENCE_BREAK = re.compile(r"[.!?]\s+[A-Z]")


def module_lines(tree: Tree) -> Iterator[Finding]:
    """Find modules longer than the limit."""
    for name, text, _ in tree.modules():
        lines = text.count("\n")
        if lines > MODULE_LINES_MAX:
            yield Finding("module-lines", name, f"{lines} lines, at most {MODULE_LINES_MAX}: split it by noun")


def function_lines(tree: Tree) -> Iterator[Finding]:
    """Find functions longer than the limit, docstring included."""
    for name, _, module in tree.modules():
        for function in functions(module):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                problem = f"{function.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
                yield Finding("function-lines", f"{name}:{function.lineno}", problem)


def words_of(name: str) -> set[str]:
    """Split a snake_case or CamelCase name into lower-case words.

    >>> sorted(words_of("PoolManager_v2"))
    ['manager', 'pool', 'v2']
    >>> words_of("on_worker_reset") & BANNED_WORDS
    set()
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", GIVEN_NAMES.sub("", name))
    return {word.lower() for word in spaced.split("_") if word}


def banned_names(tree: Tree) -> Iterator[Finding]:
    """Find modules, functions and classes whose name says nothing or uses a word we do not use."""
    for name, _, module in tree.modules():
        for part in name.removesuffix(".py").split("/"):
            for word in sorted(words_of(part) & BANNED_WORDS):
                yield Finding("banned-names", name, f"the word '{word}' is banned in names")
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for word in sorted(words_of(node.name) & BANNED_WORDS):
                    problem = f"{node.name}: the word '{word}' is banned in names"
                    yield Finding("banned-names", f"{name}:{node.lineno}", problem)


def dotted(name: str) -> str:
    """Name the module of a file below src.

    >>> dotted("src/orchqueue/core/__init__.py"), dotted("src/orchqueue/core/queue.py")
    ('orchqueue.core', 'orchqueue.core.queue')
    """
    return name.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(name: str, module: ast.Module) -> Iterator[str]:
    """Yield every dotted name that a module imports, relative imports resolved."""
    package = dotted(name) if name.endswith("__init__.py") else dotted(name).rpartition(".")[0]
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def dead_modules(tree: Tree) -> Iterator[Finding]:
    """Find modules that nothing imports, no entry point names and no other file mentions by dotted name."""
    sources = list(tree.modules("src", generated=True))
    used = {target for name, _, module in sources for target in imported(name, module) if target != dotted(name)}
    mentions = {name: text for name, text, _ in sources}
    mentions |= {name: tree.text(name) or "" for name in ("pyproject.toml", "Makefile")}
    for name, _, _ in sources:
        module_name = dotted(name)
        if name.endswith(("__init__.py", "__main__.py")) or module_name in used:
            continue
        word = re.compile(rf"(?<![\w.]){re.escape(module_name)}(?![\w])")
        if not any(word.search(text) for other, text in mentions.items() if other != name):
            yield Finding("dead-modules", name, "nothing imports it and no entry point names it: use it or delete it")


def core_imports(tree: Tree) -> Iterator[Finding]:
    """Find imports in the core beyond its small list."""
    for name, _, module in tree.modules("src"):
        if name.startswith("src/orchqueue/core/"):
            for target in imported(name, module):
                if target.split(".")[0] not in CORE_IMPORTS:
                    yield Finding("core-imports", name, f"the core may not import {target}")


def sleeps_in_tests(tree: Tree) -> Iterator[Finding]:
    """Find pauses in tests: wait for a condition instead (tests/waiting.py). A `sleep(0)` only yields."""
    for name, _, module in tree.modules("tests"):
        if name in PAUSE_ALLOWED:
            continue
        for node in ast.walk(module):
            called = node.func if isinstance(node, ast.Call) else None
            word = getattr(called, "attr", None) or getattr(called, "id", None)
            yields = isinstance(node, ast.Call) and bool(node.args) and ast.unparse(node.args[0]) == "0"
            if called is not None and not yields and word in {"sleep", "sleep_until", "sleep_forever"}:
                problem = "tests never sleep: wait for a condition (tests/waiting.py)"
                yield Finding("sleeps-in-tests", f"{name}:{called.lineno}", problem)


def test_docstrings(tree: Tree) -> Iterator[Finding]:
    """Find tests whose docstring is not exactly one sentence."""
    for name, _, module in tree.modules("tests"):
        if not name.rpartition("/")[2].startswith("test_"):
            continue
        for function in functions(module):
            if not function.name.startswith("test_"):
                continue
            text = (ast.get_docstring(function) or "").strip()
            if not text.endswith((".", "?")) or "\n\n" in text or SENTENCE_BREAK.search(text):
                problem = f"{function.name} wants a docstring of one sentence"
                yield Finding("test-docstrings", f"{name}:{function.lineno}", problem)


def unstaged_tests(tree: Tree) -> Iterator[Finding]:
    """Find test files that no stage of `make test` would run."""
    from tools.stages import STAGES

    staged = [place for stage in STAGES for place in stage.folders]
    folders = tuple(f"{place}/" for place in staged)
    for name in tree.files:
        is_test = name.startswith("tests/") and name.rpartition("/")[2].startswith("test_") and name.endswith(".py")
        if is_test and not name.startswith(folders) and name not in staged:
            yield Finding("unstaged-tests", name, "no stage runs it: name its folder in tools/stages.py")


RULES = (
    module_lines,
    function_lines,
    banned_names,
    dead_modules,
    core_imports,
    sleeps_in_tests,
    test_docstrings,
    unstaged_tests,
)
