"""Daemons to be fuzzed: real processes, each with a quick simulated engine behind the real adapter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.daemon import Daemon
from tests.simulated import serving
from tests.waiting import until

QUICK = ("--tokens-per-s", "100000", "--prefill-tokens-per-s", "10000000")
POOL = "default"  # the name in the contract's examples


@dataclass(frozen=True)
class Guarded:
    """A daemon that wants a key, and one that may do everything there."""

    daemon: Daemon
    key: str
    directory: Path

    def of_scope(self, scope: str) -> str:
        """Make another key, for this scope only."""
        key = make_key(self.directory, scope)
        headers = {"x-api-key": key}
        until(
            lambda: httpx.get(f"{self.daemon.url}/v1/usage", headers=headers, timeout=30).status_code != 401,
            what="the new key's first day",
        )
        return key


def make_key(directory: Path, *scopes: str) -> str:
    """Make a key as an operator does."""
    command = [sys.executable, "-m", "orchqueue.daemon.main", "keys", "create", "--tenant", "fuzz"]
    command += [word for scope in scopes for word in ("--scope", scope)]
    command += ["--keys-file", str(directory / "keys.json"), "--data-dir", str(directory / "data")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def open_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serve callers of this machine without keys."""
    with serving(tmp_path_factory.mktemp("open"), "", *QUICK, pool_id=POOL) as daemon:
        yield daemon


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Serve nobody without a key; the one that is given may do everything."""
    directory = tmp_path_factory.mktemp("guarded")
    key = make_key(directory, "tasks", "control")
    with serving(directory, f"auth: {{keys_file: '{directory / 'keys.json'}'}}\n", *QUICK, pool_id=POOL) as daemon:
        yield Guarded(daemon, key, directory)
