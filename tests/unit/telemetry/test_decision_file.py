"""Decisions on disk: for the owner alone, bounded, told where some are missing, and never in the way."""

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from orchqueue.adapters import decision_file
from orchqueue.adapters.decision_file import QUEUE_LIMIT_BYTES, DecisionFile
from tests.waiting import until

pytestmark = pytest.mark.req("ORCH-4325")
PLENTY = 1 << 20


class Problems(list[str]):
    """What was told."""


@pytest.fixture
def problems() -> Problems:
    """Give a place for problems."""
    return Problems()


def lines(path: Path) -> list[str]:
    """Read the lines of a file."""
    return path.read_text(encoding="utf-8").splitlines()


def test_lines_are_appended_for_the_owner_alone(tmp_path: Path, problems: Problems) -> None:
    """What was there stays, what is new follows, and nobody else may read it, whatever the rights were before."""
    path = tmp_path / "decisions.jsonl"
    path.write_text("{}\n")
    path.chmod(0o644)
    file = DecisionFile(str(path), PLENTY, problems.append)
    for number in range(3):
        file.keep(b'{"n":%d}' % number)
    file.close()
    file.keep(b'{"n":"too late"}')
    assert lines(path) == ["{}", '{"n":0}', '{"n":1}', '{"n":2}']
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert problems == []


def test_a_full_file_takes_its_predecessors_place(tmp_path: Path, problems: Problems) -> None:
    """There are never more than two files, each within its bound, and nothing is lost between the two."""
    path = tmp_path / "d"
    file = DecisionFile(str(path), 64, problems.append)
    for number in range(20):
        file.keep(b'{"number":%02d}' % number)
        until(lambda: not file._lines and not file._writing, what="the line is written")
    file.close()
    both = [*lines(tmp_path / "d.1"), *lines(path)]
    numbers = [int(line[10:-1]) for line in both]
    assert numbers == list(range(20))[-len(numbers) :]
    assert len(numbers) > 4
    assert {p.name for p in tmp_path.iterdir()} == {"d", "d.1"}
    assert max(p.stat().st_size for p in tmp_path.iterdir()) <= 64
    assert problems == []


@pytest.mark.req("ORCH-4326")
def test_a_full_disk_switches_it_off_with_one_word(problems: Problems) -> None:
    """On a disk without room the writing ends for good, told once; whoever logs notices nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision_file, "_open", lambda path: os.open(path, os.O_WRONLY))
        file = DecisionFile("/dev/full", PLENTY, problems.append)
        for _ in range(3):
            file.keep(b"{}")
        until(lambda: bool(problems), what="the problem is told")
        file.keep(b"{}")
        file.close()
    assert problems == ["/dev/full cannot be written (No space left on device); decisions are kept in memory only"]


@pytest.mark.req("ORCH-4326")
def test_a_disk_that_hangs_holds_nobody_up_and_the_gap_is_told(problems: Problems) -> None:
    """While no write returns, lines queue up to the bound and the rest is lost; what is written says how many."""
    reader, writer = os.pipe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision_file, "_open", lambda _path: writer)
        file = DecisionFile("d", 1 << 30, problems.append)
    line = b'{"x":"%s"}' % (b"y" * 100_000)
    given = 3 * (QUEUE_LIMIT_BYTES // len(line))
    file.keep(line)
    # A line that was taken out of a full queue would make room for another one, and for a gap before it.
    until(lambda: not file._lines and file._writing, what="the first line hangs")
    for _ in range(given - 1):
        file.keep(line)
    lost = file._lost
    assert 0 < lost < given
    closing = threading.Thread(target=file.close)
    closing.start()
    with os.fdopen(reader, "rb") as end:
        read = end.read().splitlines()
    closing.join()
    assert [json.loads(one) for one in read if b"gap" in one] == [{"kind": "gap", "lost": lost}]
    assert read.count(line) == given - lost
    assert problems == []


@pytest.mark.req("ORCH-4326")
@pytest.mark.parametrize("kind", ["nowhere", "directory", "pipe", "link"])
def test_what_cannot_be_opened_is_an_error_at_once(tmp_path: Path, problems: Problems, kind: str) -> None:
    """A missing directory, no plain file, or a link into somebody else's: the caller learns of it and decides."""
    path = tmp_path / "d"
    if kind == "nowhere":
        path = tmp_path / "no" / "d"
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    else:
        path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError) as raised:  # noqa: PT011 - which error it is differs with the kind
        DecisionFile(str(path), PLENTY, problems.append)
    assert raised.value.errno in (errno.ENOENT, errno.EISDIR, errno.ELOOP, 0)
    if kind == "pipe":
        os.close(reader)
    assert not (tmp_path / "other").exists()
