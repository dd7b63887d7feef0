"""Daemons to be fuzzed: real processes, each with a quick simulated engine behind the real adapter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.daemon import Daemon
from tests.simulated import serving

QUICK = ("--tokens-per-s", "100000", "--prefill-tokens-per-s", "10000000")
POOL = "default"  # the name in the contract's examples


@dataclass(frozen=True)
class Guarded:
    """A daemon that wants a key, and one that it knows."""

    daemon: Daemon
    key: str


@pytest.fixture(scope="module")
def open_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serve callers of this machine without keys."""
    with serving(tmp_path_factory.mktemp("open"), "", *QUICK, pool_id=POOL) as daemon:
        yield daemon


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Serve nobody without a key; the one that is given may do everything."""
    directory = tmp_path_factory.mktemp("guarded")
    command = [sys.executable, "-m", "orchqueue.daemon.main", "keys", "create", "--tenant", "fuzz"]
    command += ["--scope", "tasks", "--scope", "control", "--keys-file", str(directory / "keys.json")]
    command += ["--data-dir", str(directory / "data")]
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with serving(directory, f"auth: {{keys_file: '{directory / 'keys.json'}'}}\n", *QUICK, pool_id=POOL) as daemon:
        yield Guarded(daemon, key)
