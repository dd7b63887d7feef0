"""One daemon to a data directory, and nothing of it open to others."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchqueue.adapters.system import (
    DataDirectory,
    DataDirectoryError,
    SystemClock,
    default_data_dir,
    ensure_private_directory,
)
from tests.waiting import until

HOLDER = """
import sys
from orchqueue.adapters.system import DataDirectory
directory = DataDirectory(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the directory, and wait until it does."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.req("ORCH-4184")
def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Directory, lock and subdirectories are closed to everyone else, whatever the umask."""
    before = os.umask(0)
    try:
        with DataDirectory(str(tmp_path / "a" / "data")) as directory:
            replicas = directory.subdirectory("replicas")
            assert directory.file("x") == str(tmp_path / "a" / "data" / "x")
    finally:
        os.umask(before)
    assert _mode(tmp_path / "a" / "data") == 0o700
    assert _mode(Path(replicas)) == 0o700
    assert _mode(tmp_path / "a" / "data" / "lock") == 0o600


@pytest.mark.req("ORCH-4026")
def test_a_second_daemon_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    """Two processes never share it, and the message says whom to stop."""
    child = _holder(tmp_path / "data")
    try:
        with pytest.raises(DataDirectoryError, match=rf"in use by the daemon with pid {child.pid}; stop it"):
            DataDirectory(str(tmp_path / "data"))
    finally:
        child.communicate("")
    DataDirectory(str(tmp_path / "data")).close()


def test_two_in_one_process_are_refused_too(tmp_path: Path) -> None:
    """The lock belongs to the opening, not to the process."""
    with DataDirectory(str(tmp_path)), pytest.raises(DataDirectoryError, match=f"pid {os.getpid()}"):
        DataDirectory(str(tmp_path))


@pytest.mark.req("ORCH-4026")
def test_a_killed_daemon_leaves_no_lock_behind(tmp_path: Path) -> None:
    """After kill -9 the next one starts at once."""
    child = _holder(tmp_path / "data")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with DataDirectory(str(tmp_path / "data")) as directory:
        assert Path(directory.file("lock")).read_text() == f"{os.getpid()}\n"


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    """An engine that outlives the daemon does not keep the directory from the next one."""
    directory = DataDirectory(str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False
    )
    directory.close()

    def is_free() -> bool:
        try:
            DataDirectory(str(tmp_path)).close()
        except DataDirectoryError:
            return False
        return True

    try:
        # The kernel lets go of what an exec closes a moment after the exec.
        until(is_free, what="the lock to be free while the child lives")
    finally:
        child.communicate(b"")


def test_a_lock_that_was_removed_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that is gone guards nothing: the one with the name is taken instead."""
    import fcntl

    real = fcntl.flock
    removed: list[bool] = []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if not removed:
            removed.append(True)
            (tmp_path / "lock").unlink()

    monkeypatch.setattr("fcntl.flock", flock)
    with DataDirectory(str(tmp_path)):
        assert removed
        with pytest.raises(DataDirectoryError, match="in use"):
            DataDirectory(str(tmp_path))


def test_a_lock_that_is_a_link_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    """Nobody makes us write elsewhere by planting a link."""
    target = tmp_path / "precious"
    target.write_text("keep")
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "lock").symlink_to(target)
    with pytest.raises(DataDirectoryError, match="it is a link"):
        DataDirectory(str(data))
    assert target.read_text() == "keep"


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """Whoever can rename our files could swap them."""
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    with pytest.raises(DataDirectoryError, match="chmod go-w"):
        DataDirectory(str(data))


def test_the_operators_own_link_to_a_larger_disk_is_followed(tmp_path: Path) -> None:
    """A link of our own user is no trick; the lock lies at the real place."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "data").symlink_to(tmp_path / "real")
    with DataDirectory(str(tmp_path / "data")) as directory:
        assert directory.path == str(tmp_path / "real")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to somebody else")
def test_somebody_elses_link_or_directory_is_refused(tmp_path: Path) -> None:
    """A link or a directory that another user made is not ours to fill."""
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "real")
    os.lchown(link, 12345, 12345)
    with pytest.raises(DataDirectoryError, match="a link that user 12345 made"):
        DataDirectory(str(link))
    os.chown(tmp_path / "real", 12345, 12345)
    with pytest.raises(DataDirectoryError, match="belongs to user 12345"):
        DataDirectory(str(tmp_path / "real"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("x"), "File exists; it is no directory"),
        (lambda path: (path.mkdir(), (path / "lock").mkdir()), "Is a directory"),
    ],
)
def test_what_is_no_directory_or_no_file_is_told(tmp_path: Path, make: object, reason: str) -> None:
    """Something else of that name is an error with its reason."""
    assert callable(make)
    make(tmp_path / "data")
    with pytest.raises(DataDirectoryError, match=reason):
        DataDirectory(str(tmp_path / "data"))


def test_a_path_below_a_file_is_told(tmp_path: Path) -> None:
    """A part of the path that is no directory is told as that."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataDirectoryError, match="Not a directory; a part of the path is no directory"):
        ensure_private_directory(str(tmp_path / "file" / "data"))


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    """A real limit on file size makes the lock's writing fail; the message says what to do."""
    script = """
import resource, sys
from orchqueue.adapters.system import DataDirectory
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
DataDirectory(sys.argv[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "data")], capture_output=True, text=True, check=False
    )
    assert "DataDirectoryError" in done.stderr
    assert "raise the limit on file size" in done.stderr


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A place that the kernel keeps read-only, for root too."""
    with pytest.raises(DataDirectoryError, match=r"cannot be used: /proc/.*--data-dir"):
        DataDirectory("/proc/orchqueue")
    assert not (tmp_path / "lock").exists()


def test_the_default_place_follows_the_desktop_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_DATA_HOME counts where it is absolute, else the home directory."""
    monkeypatch.setenv("HOME", "/nowhere/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "/var/data")
    assert default_data_dir() == "/var/data/orchqueue"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", value)
        assert default_data_dir() == "/nowhere/someone/.local/share/orchqueue"


def test_the_clock_never_goes_back_when_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unix time at the start, monotonic from there on."""
    import time

    wall, ticks = time.time_ns(), iter([1_000_000_000, 1_500_000_000, 2_750_999_999])
    monkeypatch.setattr("time.time_ns", lambda: wall)
    monkeypatch.setattr("time.monotonic_ns", lambda: next(ticks))
    clock = SystemClock()
    monkeypatch.setattr("time.time_ns", lambda: 0)
    assert clock.now_ms() == (wall + 500_000_000) // 1_000_000
    assert clock.now_ms() == (wall + 1_750_999_999) // 1_000_000
