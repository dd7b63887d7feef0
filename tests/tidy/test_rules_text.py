"""Each tidy rule on documents and locks is seen catching its fault and letting good text pass."""

from pathlib import Path

import pytest

from tests.tidy.planting import plant, problems
from tools import tidy_text

HASH = "ab" * 32


@pytest.mark.parametrize("link", ["missing.md", "other.md#nowhere", "#nowhere", "../outside.md"])
def test_dangling_link_is_found(tmp_path: Path, link: str) -> None:
    """A link to a missing file or heading is found."""
    files = {"docs/a.md": f"# A\n\nSee [b]({link}).\n", "docs/other.md": "# Other\n"}
    assert len(problems(tidy_text.document_links, tmp_path, files)) == 1


def test_good_links_pass(tmp_path: Path) -> None:
    """Links to files, headings, explicit anchors and the web pass, and code blocks are not read."""
    text = (
        "# A b\n\n[x](#a-b) [y](other.md#orch-1) [z](other.md#two-words) [w](https://example.org/x) [v](sub/)\n"
        "```\n[no](nothing.md)\n```\n"
    )
    files = {"docs/a.md": text, "docs/other.md": '<a id="orch-1"></a>\n## Two `words`\n', "docs/sub/x.txt": ""}
    assert problems(tidy_text.document_links, tmp_path, files) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://mirror.example/simple",
        "--find-links wheels",
        "msgspec @ https://mirror.example/msgspec.whl",
        "msgspec @ file:///somewhere/msgspec.whl",
        "-e .",
        "msgspec>=0.22",
        "    # via orchqueue",
        "    --hash=md5:00",
    ],
)
def test_foreign_lock_line_is_found(tmp_path: Path, line: str) -> None:
    """A lock line that says more or less than name, version and hash is found."""
    good = f"# Compiled by `make lock`. x\nuvloop[dev]==0.22.1 ; sys_platform != 'win32' \\\n    --hash=sha256:{HASH}\n"
    found = problems(tidy_text.lock_lines, tmp_path, {"locks/dev.lock": f"{good}{line}\n"})
    assert [entry.split(" ")[0] for entry in found] == ["locks/dev.lock:4:"]


@pytest.mark.parametrize(
    "text",
    [
        "/ho" + "me/ann/x",
        "see /ro" + "ot/.cache",
        "`/wo" + "rk/main`",
        "/Us" + "ers/ann/y",
        "index: py" + "pi.org/simple",
    ],
)
def test_machine_path_is_found(tmp_path: Path, text: str) -> None:
    """A path of somebody's machine or the host of a registry is found in any file."""
    assert len(problems(tidy_text.machine_paths, tmp_path, {"docs/a.md": f"{text}\n", "x.yaml": "a: 1\n"})) == 1


def test_routes_are_not_machine_paths(tmp_path: Path) -> None:
    """Routes, relative paths and words with a slash pass."""
    text = "GET /v1/tasks/x, src/work/a, a/home/b, and either/or, ~/home/x, /etc/orchqueue/config.yaml\n"
    assert problems(tidy_text.machine_paths, tmp_path, {"docs/a.md": text}) == []


def test_part_without_contract_is_found(tmp_path: Path) -> None:
    """A package or module of the product that no import contract names is found."""
    files = {
        "pyproject.toml": "[[tool.importlinter.contracts]]\nlayers = ['orchqueue.core']\n",
        "src/orchqueue/__init__.py": "",
        "src/orchqueue/core/queue.py": "",
        "src/orchqueue/extra.py": "",
    }
    found = problems(tidy_text.import_contracts, tmp_path, files)
    assert [line.split(":")[0] for line in found] == ["src/orchqueue/extra"]


def test_binary_files_are_skipped(tmp_path: Path) -> None:
    """A file that is not text is left alone."""
    tree = plant(tmp_path, {"docs/a.md": "fine\n"})
    (tmp_path / "logo.bin").write_bytes(b"\xff\xfe/ro" + b"ot/x")
    assert list(tidy_text.machine_paths(tree)) == []
