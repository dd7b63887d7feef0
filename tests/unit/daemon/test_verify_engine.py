"""`orchestratord verify-engine` as a user runs it, against simulated servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchqueue.adapters.engines.conformance.items import ITEMS
from orchqueue.daemon.exit_codes import ExitCode
from tests.simulated import SimulatedEngine, simulated_engine

FAST = ("--tokens-per-s", "1000")


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "orchqueue.daemon.main", "verify-engine", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def server() -> Iterator[SimulatedEngine]:
    """Run a simulated llama.cpp."""
    with simulated_engine(*FAST) as running:
        yield running


def against(server: SimulatedEngine, *more: str) -> subprocess.CompletedProcess[str]:
    """Verify a simulated llama.cpp."""
    return verify("--engine", "llamacpp", "--url", server.url, "--allow-simulated", *more)


@pytest.mark.req("ORCH-4433")
@pytest.mark.timeout(120)
def test_a_good_server_passes_every_item(server: SimulatedEngine) -> None:
    """Each item is told with its verdict, the last line is the total, and the status is 0."""
    done = against(server)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("llamacpp b0-simulated at http://127.0.0.1:")
    asked = sum("completion" in item.workloads for item in ITEMS)
    assert sum(line.startswith("ok ") for line in lines) == asked > 20
    assert lines[-1] == f"{asked} passed, 0 failed, 0 not offered"


@pytest.mark.req("ORCH-4059", "ORCH-4433")
@pytest.mark.parametrize("workload", ["embedding", "rerank"])
def test_a_server_of_vectors_or_ranks_is_verified_as_such(server: SimulatedEngine, workload: str) -> None:
    """Only what such a server can be asked for is asked."""
    done = against(server, "--workload", workload)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    names = {item.title for item in ITEMS if workload in item.workloads}
    assert sum(line.startswith("ok ") for line in done.stdout.splitlines()) == len(names)


@pytest.mark.req("ORCH-4433")
@pytest.mark.parametrize(
    ("faults", "item", "told"),
    [
        ({"not_deterministic": True}, "repeat", "three runs gave 3 texts"),
        ({"error_after": 3}, "stream", "engine reported in its stream: simulated fault"),
        ({"ignore_abort_ms": 60_000, "hide_slots": True}, "figures", "the KV ratio is None"),
        ({"status": 429}, "rejects", "a prompt above the context is not rejected: overloaded"),
        ({"broken_utf8_after": 2}, "stream", "no JSON of its kind"),
    ],
)
def test_a_bad_server_is_told_by_its_item(
    server: SimulatedEngine, faults: dict[str, object], item: str, told: str
) -> None:
    """What the engine did instead stands under the item, and the status is 7."""
    server.set_faults(**faults)
    done = against(server, "--only", item, "--json")
    verdicts = json.loads(done.stdout)["items"]
    assert told in verdicts[0]["detail"]
    assert done.returncode == ExitCode.NOT_VERIFIED


@pytest.mark.req("ORCH-4035", "ORCH-4433")
def test_a_simulated_server_is_not_taken_for_a_real_one(server: SimulatedEngine) -> None:
    """Without the flag a simulated server is refused before any item."""
    done = verify("--engine", "llamacpp", "--url", server.url)
    assert (done.returncode, done.stdout) == (ExitCode.ENGINE_UNREACHABLE, "")
    assert "simulated engine" in done.stderr


@pytest.mark.req("ORCH-4028", "ORCH-4433")
@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], ExitCode.BAD_INPUT, "needs --engine and --url"),
        (["--engine", "llamacpp", "--url", "ftp://x"], ExitCode.BAD_INPUT, "is not http://HOST:PORT"),
        (["--engine", "llamacpp", "--url", "http://127.0.0.1:9"], ExitCode.ENGINE_UNREACHABLE, "127.0.0.1:9"),
        (["--engine", "llamacpp", "--url", "http://127.0.0.1:9", "--only", "x"], ExitCode.BAD_INPUT, "no item is called x"),
        (["--engine", "llamacpp", "--url", "http://127.0.0.1:9", "--api-key-env", "NO_KEY"], ExitCode.BAD_INPUT, "NO_KEY"),
        (["--engine", "llama", "--url", "http://127.0.0.1:9"], ExitCode.BAD_INPUT, "invalid choice"),
    ],
)  # fmt: skip
def test_wrong_use_is_told_in_words(arguments: list[str], status: ExitCode, told: str) -> None:
    """A wrong command line or an absent server is told on standard error, with what to do."""
    done = verify(*arguments)
    assert done.returncode == status
    assert told in done.stderr


@pytest.mark.req("ORCH-4433")
def test_items_are_listed_by_name() -> None:
    """`--list` names every item, one a line."""
    assert [line.split()[0] for line in verify("--list").stdout.splitlines()] == [item.name for item in ITEMS]
