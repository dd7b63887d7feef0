"""Each tidy rule on code is seen catching its fault and letting good code pass."""

from pathlib import Path

import pytest

from tests.tidy.planting import problems
from tools import tidy_code

MODULE = "src/orchqueue/core/queue.py"


def test_long_module_is_found(tmp_path: Path) -> None:
    """A module of 401 lines is found and one of 400 is not."""
    files = {MODULE: "x = 1\n" * 401, "src/orchqueue/core/short.py": "x = 1\n" * 400}
    found = problems(tidy_code.module_lines, tmp_path, files)
    assert len(found) == 1
    assert "queue.py: 401 lines" in found[0]


def test_generated_module_may_be_long(tmp_path: Path) -> None:
    """The generated schema is exempt from the length rule."""
    assert problems(tidy_code.module_lines, tmp_path, {"src/orchqueue/schema/data.py": "x = 1\n" * 900}) == []


def test_long_function_is_found(tmp_path: Path) -> None:
    """A function of 61 lines is found and one of 60 is not."""
    text = "def long():\n" + "    pass\n" * 60 + "\n\ndef fits():\n" + "    pass\n" * 59
    found = problems(tidy_code.function_lines, tmp_path, {MODULE: text})
    assert len(found) == 1
    assert "long has 61 lines" in found[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/orchqueue/core/utils.py", ""),
        ("src/orchqueue/core/pool_helpers.py", ""),
        ("src/orchqueue/common/__init__.py", ""),
        (MODULE, "class SessionManager: ...\n"),
        (MODULE, "def start_worker(): ...\n"),
        (MODULE, "class A:\n    async def next_job(self): ...\n"),
    ],
)
def test_banned_word_is_found(tmp_path: Path, name: str, text: str) -> None:
    """A banned word in a module, class, function or method name is found."""
    assert len(problems(tidy_code.banned_names, tmp_path, {name: text})) == 1


def test_given_names_pass(tmp_path: Path) -> None:
    """The names that contracts impose and words that only contain a banned one pass."""
    text = "def on_worker_reset(): ...\ndef log_job_id(): ...\nclass Commonality: ...\nclass WorkerReset: ...\n"
    assert problems(tidy_code.banned_names, tmp_path, {MODULE: text}) == []


def test_dead_module_is_found(tmp_path: Path) -> None:
    """A module that nothing imports is found, also when tests import it."""
    files = {
        "pyproject.toml": '[project.scripts]\norchq = "orchqueue.cli.main:main"\n',
        "src/orchqueue/__init__.py": "",
        "src/orchqueue/cli/main.py": "from . import live\nfrom orchqueue.core.queue import Queue\n",
        "src/orchqueue/cli/live.py": "LAZY = 'orchqueue.cli.lazy:app'\n",
        "src/orchqueue/cli/lazy.py": "",
        "src/orchqueue/core/queue.py": "import orchqueue.core.queue\n",
        "src/orchqueue/core/queue_dead.py": "import orchqueue.core.queue_dead\n",
        "tests/unit/test_dead.py": "import orchqueue.core.queue_dead\n",
    }
    found = problems(tidy_code.dead_modules, tmp_path, files)
    assert [line.split(":")[0] for line in found] == ["src/orchqueue/core/queue_dead.py"]


@pytest.mark.parametrize("line", ["import time", "from asyncio import sleep", "import os.path", "import httpx"])
def test_core_import_beyond_the_list_is_found(tmp_path: Path, line: str) -> None:
    """An import in the core beyond its small list is found."""
    assert problems(tidy_code.core_imports, tmp_path, {MODULE: f"import heapq\nimport msgspec\n{line}\n"})


def test_core_list_does_not_bind_others(tmp_path: Path) -> None:
    """The runtime may import what the core may not."""
    assert problems(tidy_code.core_imports, tmp_path, {"src/orchqueue/runtime/loop.py": "import time\n"}) == []


@pytest.mark.parametrize(
    "call", ["time.sleep(1)", "await asyncio.sleep(0.1)", "sleep(DELAY_S)", "await anyio.sleep_forever()"]
)
def test_sleep_in_a_test_is_found(tmp_path: Path, call: str) -> None:
    """Every form of sleeping in a test is found."""
    text = f"async def test_x():\n    {call}\n"
    assert len(problems(tidy_code.sleeps_in_tests, tmp_path, {"tests/unit/test_x.py": text})) == 1


def test_yielding_is_not_sleeping(tmp_path: Path) -> None:
    """A sleep of zero only lets the loop run and passes."""
    text = "async def test_x():\n    await asyncio.sleep(0)\n"
    assert problems(tidy_code.sleeps_in_tests, tmp_path, {"tests/unit/test_x.py": text}) == []


@pytest.mark.parametrize(
    "docstring", ["", '"""No period"""', '"""Two. Sentences."""', '"""One.\n\n    And a paragraph.\n    """']
)
def test_test_without_one_sentence_is_found(tmp_path: Path, docstring: str) -> None:
    """A test whose docstring is missing, unfinished or longer than one sentence is found."""
    text = f"def test_x():\n    {docstring}\n    assert True\n"
    assert len(problems(tidy_code.test_docstrings, tmp_path, {"tests/unit/test_x.py": text})) == 1


def test_one_sentence_passes(tmp_path: Path) -> None:
    """A one-sentence docstring passes, wrapped or with a version number in it."""
    text = 'async def test_x():\n    """It speaks OpenAPI 3.2 and\n    wraps."""\n\n\ndef support(): ...\n'
    assert problems(tidy_code.test_docstrings, tmp_path, {"tests/unit/test_x.py": text}) == []


def test_test_outside_all_stages_is_found(tmp_path: Path) -> None:
    """A test file in a folder that no stage runs is found."""
    files = {"tests/unit/test_a.py": "", "tests/forgotten/test_b.py": "", "tests/forgotten/support.py": ""}
    found = problems(tidy_code.unstaged_tests, tmp_path, files)
    assert [line.split(":")[0] for line in found] == ["tests/forgotten/test_b.py"]
