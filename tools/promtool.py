"""Find Prometheus's own checker, promtool, or fetch it into the virtual environment: `python -m tools.promtool` says where it is.

1. A promtool on PATH is used, or one that was fetched before.
2. Otherwise Debian's or Ubuntu's package is downloaded with `apt-get download`, which needs no root, and of it only the
   promtool binary is unpacked into the environment. No service is installed and nothing outside of it is touched.
3. Where that cannot be done the error says what to install.

No package index of Python or Node carries promtool.

Req: ORCH-4049
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FETCHED = Path(sys.prefix) / "bin" / "promtool"
# Debian 12 ships promtool 2.42 inside its server's package; newer releases have a package of its own.
PACKAGES = ("promtool", "prometheus")
OLDEST = (2, 40)

ADVICE = (
    "Install it: on Debian and Ubuntu `sudo apt-get install prometheus` (or `promtool`), on Fedora `sudo dnf install"
    " golang-github-prometheus`, on macOS `brew install prometheus`; or put the promtool binary of a Prometheus release,"
    f" {OLDEST[0]}.{OLDEST[1]} or newer, on PATH."
)


class NoPromtoolError(Exception):
    """There is no promtool, and it could not be fetched."""


def find() -> Path:
    """Give promtool, fetching it where there is none.

    Errors: NoPromtoolError that says what to install.
    """
    on_path = shutil.which("promtool")
    for found in (Path(on_path) if on_path else None, FETCHED):
        if found is not None and found.exists() and version_of(found) >= OLDEST:
            return found
    fetch(FETCHED)
    return FETCHED


def version_of(promtool: Path) -> tuple[int, int]:
    """Ask a promtool for its version; (0, 0) where it cannot be run."""
    try:
        done = subprocess.run([promtool, "--version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    words = (done.stdout + done.stderr).split()
    number = words[words.index("version") + 1] if "version" in words[:-1] else "0.0"
    major, _, rest = number.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def fetch(target: Path) -> None:
    """Download the distribution's package and keep its promtool.

    Errors: NoPromtoolError.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoPromtoolError(f"promtool is missing, and this is no machine with apt-get to fetch it. {ADVICE}")
    with tempfile.TemporaryDirectory(prefix="promtool-") as scratch:
        directory = Path(scratch)
        try:
            package = _download(directory)
            _run(["dpkg-deb", "--extract", str(package), str(directory / "package")], directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Another process may run the old one: it is replaced, not written over.
            part = target.with_suffix(f".{os.getpid()}.part")
            shutil.copy2(directory / "package" / "usr" / "bin" / "promtool", part)
            part.replace(target)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise NoPromtoolError(
                f"promtool is missing, and it could not be fetched: {said.strip()}. {ADVICE}"
            ) from error


def _download(directory: Path) -> Path:
    """Download into a directory, with the machine's package lists, or fresh ones of our own where those do not serve."""
    lists = directory / "lists"
    for part in (lists / "partial", directory / "cache" / "archives" / "partial"):
        part.mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={directory / 'cache'}", "-o", "Dir::Cache::pkgcache="]
    own += ["-o", "APT::Sandbox::User="]
    problem: subprocess.SubprocessError | None = None
    for options in ([], own):
        if options:
            _run(["apt-get", *options, "--quiet=2", "update"], directory)
        for package in PACKAGES:
            try:
                _run(["apt-get", *options, "--quiet=2", "download", package], directory)
            except subprocess.CalledProcessError as error:
                problem = error
            found = sorted(directory.glob("*.deb"))
            if found:
                return found[0]
    raise problem or subprocess.SubprocessError("apt-get downloaded nothing")


def _run(command: list[str], directory: Path) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=240)


def main() -> int:
    """Say where promtool is and which, or what to do."""
    try:
        found = find()
    except NoPromtoolError as error:
        print(error, file=sys.stderr)
        return 1
    major, minor = version_of(found)
    print(f"{found} (version {major}.{minor})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
