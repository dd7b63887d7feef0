"""`orchestratord stub` as a command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from orchqueue.daemon.exit_codes import ExitCode
from tests.contract.consumer.interactions import INTERACTIONS
from tests.contract.consumer.recording import PACT_FILE
from tests.contract.stub.stub_process import StubProcess, stub_running

pytestmark = pytest.mark.req("ORCH-4041")
ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "orchqueue.daemon.main", "stub", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=45)


def test_the_help_teaches() -> None:
    """It shows how to start, how to ask, how to choose, and where to read more."""
    said = run("--help").stdout
    for word in ("orchestratord stub --port", "orchq --url", "/~/", "--pact", "--pace-ms", "docs/stub.md"):
        assert word in said


def test_the_first_line_says_where_and_what(stub: StubProcess) -> None:
    """People and scripts find the address and the list in what it says."""
    assert stub.said.startswith(f"{len(INTERACTIONS)} interactions at {stub.url} ")
    assert f"curl {stub.url}/~" in stub.said


def test_a_port_in_use_is_told(stub: StubProcess) -> None:
    """One line on standard error that names the address and a way out; the status is that of an address."""
    done = run("--port", str(stub.port))
    assert (done.returncode, done.stdout) == (ExitCode.CANNOT_LISTEN, "")
    assert done.stderr == (
        f"orchestratord: 127.0.0.1:{stub.port} cannot be listened on: Address already in use; "
        "choose another with --port, or --port 0 for any\n"
    )


def test_a_killed_stub_leaves_its_port_free() -> None:
    """Nothing of a stub that was killed in the middle of a stream is left behind."""
    with stub_running("--pace-ms", "3600000") as killed:
        with socket.create_connection(("127.0.0.1", killed.port)) as reader:
            path = "/~/the-stream-of-a-task/v1/tasks/0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11/stream"
            reader.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
            assert reader.recv(10) == b"HTTP/1.1 2"
            assert killed.end(signal.SIGKILL)[0] == -signal.SIGKILL
        with stub_running("--port", str(killed.port)) as again:
            assert again.url == killed.url
            assert again.http.get("/healthz").json() == {"status": "ok"}


def pact_text(*paths: str, **rules: object) -> str:
    """Write a pact of interactions that differ in their paths only, all described alike."""
    request = {"method": "GET", "matchingRules": {"path": {"matchers": [rules]}}} if rules else {"method": "GET"}
    listed = [
        {"description": "a b", "request": {**request, "path": path}, "response": {"status": 200}} for path in paths
    ]
    return json.dumps({"interactions": listed})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not a pact"),
        (pact_text(), "has no interactions"),
        ('{"interactions": [{"description": "a"}]}', "missing required field `request`"),
        (pact_text("/a", "/b"), "no address of its own"),
        (pact_text("/a", match="moon"), "matcher moon"),
        (pact_text("/a", match="regex", regex="("), "the pattern ("),
    ],
)
def test_a_pact_that_cannot_be_served_is_told(tmp_path: Path, text: str, why: str) -> None:
    """One line names the file and what is wrong with it."""
    path = tmp_path / "pact.json"
    path.write_text(text)
    done = run("--pact", str(path))
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr.startswith(f"orchestratord: {path} cannot be used: ")
    assert why in done.stderr


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--pace-ms", "-1"), ("--port", "x"), ("more",)])
def test_a_wrong_command_line_is_status_2(arguments: tuple[str, ...]) -> None:
    """Ports and paces outside their range are refused before anything starts."""
    done = run(*arguments)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "usage:" in done.stderr


def test_a_missing_pact_is_told(tmp_path: Path) -> None:
    """A name that leads nowhere is no traceback."""
    done = run("--pact", str(tmp_path / "none.json"))
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr.endswith("cannot be used: No such file or directory\n")


def test_a_pact_of_ones_own(tmp_path: Path) -> None:
    """Another pact, text and all, is served like the shipped one."""
    path = tmp_path / "pact.json"
    said = {"contentType": "text/plain", "content": "short and stout"}
    response = {"status": 418, "headers": {"Content-Type": ["text/plain"]}, "body": said}
    request = {"method": "PUT", "path": "/pot", "body": {"contentType": "text/plain", "content": "tea"}}
    path.write_text(json.dumps({"interactions": [{"description": "A pot!", "request": request, "response": response}]}))
    with stub_running("--pact", str(path)) as stub:
        answer = stub.http.put("/pot", content="tea")
        assert (answer.status_code, answer.text) == (418, "short and stout")
        assert stub.http.put("/~/a-pot/pot", content="coffee").status_code == 404


@pytest.mark.timeout(120)
def test_the_wheel_brings_the_pact(tmp_path: Path) -> None:
    """What is installed from a wheel serves the very pact of this tree."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert packed.read("orchqueue/stub/pact.json") == PACT_FILE.read_bytes()
    show = "import orchqueue.stub.pact as p; print(p.__file__); print(len(p.read_pact(p.shipped_pact())))"
    done = subprocess.run(
        [sys.executable, "-c", show],
        env={**os.environ, "PYTHONPATH": str(wheel)}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    where, count = done.stdout.split("\n")[:2]
    assert where.startswith(str(wheel))
    assert count == str(len(INTERACTIONS))
