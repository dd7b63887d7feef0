"""orchestratord's own commands, as a user runs them."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchqueue import __version__
from orchqueue.adapters.system import DataDirectory
from orchqueue.daemon.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[3]
GOOD = "pools: [{id: a, engine: llamacpp, model: 'bundled:smollm2-135m-instruct-q4_1', allow_cpu: true}]\n"


def run(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "orchqueue.daemon.main", *arguments],
        capture_output=True, text=True, check=False, cwd=cwd, input=stdin,
    )  # fmt: skip


@pytest.mark.req("ORCH-4226")
def test_help_teaches_and_needs_no_heavy_import() -> None:
    """The first screen shows how to start; nothing but the parser is loaded for it."""
    done = run("--help")
    assert done.returncode == 0
    for word in ("orchestratord serve", "curl -N", "check", "config", "keys", "Exit status"):
        assert word in done.stdout
    script = (
        "import sys\nfrom orchqueue.daemon.main import build_parser\nbuild_parser().format_help()\n"
        "print([name for name in ('msgspec', 'ruamel', 'asyncio', 'prometheus_client', 'uvicorn') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


@pytest.mark.parametrize(
    "command", [["serve"], ["check"], ["config"], ["keys"], ["keys", "create"], ["keys", "rotate"]]
)
def test_each_command_has_help(command: list[str]) -> None:
    """Every command explains itself."""
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "usage: orchestratord" in done.stdout


@pytest.mark.req("ORCH-4028")
@pytest.mark.parametrize("given", ["x", "-1", "65536", "1.5", "9" * 30, "\u0663"])
@pytest.mark.parametrize("command", ["serve", "stub"])
def test_wrong_numbers_are_told_with_what_would_be_right(command: str, given: str) -> None:
    """A port that is none is refused in words, with the range and what was given."""
    done = run(command, f"--port={given}")
    assert done.returncode == 2
    assert f"--port: must be a whole number from 0 to 65535, got {given!r}" in done.stderr


def test_the_version_is_the_packages() -> None:
    """One source for the version."""
    assert run("--version").stdout == f"orchestratord {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["check"], ["serve", "--port", "x"], ["serve", "--conf", "x"]])
def test_a_wrong_command_line_is_status_2(arguments: list[str]) -> None:
    """Wrong usage is told on standard error; options are not guessed from their beginnings."""
    done = run(*arguments)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "usage:" in done.stderr


@pytest.mark.req("ORCH-4031")
def test_check_prints_every_problem_with_its_place(tmp_path: Path) -> None:
    """Status 2 and one line a problem, in the form that editors jump to."""
    path = tmp_path / "c.yaml"
    path.write_text(GOOD + "sevrer: 1\nserver: {port: -1}\n")
    done = run("check", "c.yaml", cwd=tmp_path)
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stdout.splitlines() == [
        "c.yaml: 2 problems; nothing was started",
        "c.yaml:2:1: sevrer: unknown field (did you mean 'server'?)",
        "c.yaml:3:16: server.port: is out of range, got -1 (at least 0, at most 65535)",
    ]
    as_json = run("check", "--json", "c.yaml", cwd=tmp_path)
    assert as_json.returncode == ExitCode.BAD_INPUT
    assert [problem["line"] for problem in json.loads(as_json.stdout)] == [2, 3]


@pytest.mark.req("ORCH-4031")
def test_check_is_content_with_a_good_file(tmp_path: Path) -> None:
    """Status 0, one line; what compat lets pass is still told."""
    (tmp_path / "c.yaml").write_text(GOOD)
    done = run("check", "c.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "c.yaml: good: 1 pool(s), 1 replica(s)\n", "")
    (tmp_path / "c.yaml").write_text(GOOD + "compat: true\nsevrer: 1\n")
    done = run("check", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert "c.yaml:3:1: sevrer: unknown field" in done.stderr
    assert json.loads(run("check", "--json", "c.yaml", cwd=tmp_path).stdout) == []


@pytest.mark.req("ORCH-3031")
def test_config_prints_what_is_in_effect_without_secrets(tmp_path: Path) -> None:
    """Its output is a file that `check` accepts; environment values are not in it."""
    text = GOOD.replace("allow_cpu: true", "allow_cpu: true, launch: {env: {TOKEN: hunter2}}")
    (tmp_path / "c.yaml").write_text(text)
    done = run("config", "--config", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert "hunter2" not in done.stdout
    assert "wall_ms: 60000" in done.stdout
    (tmp_path / "again.yaml").write_text(done.stdout)
    assert run("check", "again.yaml", cwd=tmp_path).returncode == 0
    embedded = json.loads(run("config", "--json").stdout)
    assert embedded["pools"][0]["id"] == "smollm2"
    (tmp_path / "c.yaml").write_text("pools: 3\n")
    assert run("config", "--config", "c.yaml", cwd=tmp_path).returncode == ExitCode.BAD_INPUT


@pytest.mark.req("ORCH-3030")
def test_serve_refuses_a_wrong_configuration_before_anything_starts(tmp_path: Path) -> None:
    """The same problems as `check`, the same status, no data directory made."""
    (tmp_path / "c.yaml").write_text("pools: []\n")
    done = run("serve", "--config", "c.yaml", "--data-dir", "data", cwd=tmp_path)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "there are no pools" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.req("ORCH-4195")
def test_serve_refuses_an_open_address_without_keys(tmp_path: Path) -> None:
    """--host cannot get around the rule of the file."""
    done = run("serve", "--host", "0.0.0.0", "--data-dir", "data", cwd=tmp_path)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "no keys are asked for" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.req("ORCH-4032")
def test_a_keys_life_on_the_command_line(tmp_path: Path) -> None:
    """Create prints the key alone on standard output; list never shows it; rotate and revoke end it."""

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("keys", *arguments, "--keys-file", "k.json", "--data-dir", "data", cwd=tmp_path)

    made = keys("create", "--tenant", "acme", "--scope", "tasks", "--scope", "control")
    assert made.returncode == 0
    found = re.fullmatch(r"oq_([a-z0-9]{8})_([A-Za-z0-9_-]{43})\n", made.stdout)
    assert found is not None
    key_id, random = found.groups()
    assert key_id in made.stderr
    assert random not in made.stderr
    listed = keys("list")
    assert "acme" in listed.stdout
    assert "control,tasks" in listed.stdout
    assert "valid" in listed.stdout
    (as_json,) = json.loads(keys("list", "--json").stdout)
    assert set(as_json) == {"id", "tenant", "scopes", "created_at_s", "ends_at_s", "replaced_by"}
    turned = keys("rotate", key_id, "--grace-s", "3600", "--json")
    new = json.loads(turned.stdout)
    assert new["key"].startswith(f"oq_{new['id']}_")
    assert f"replaced by {new['id']}" in keys("list").stdout
    assert keys("revoke", new["id"]).returncode == 0
    assert keys("list").stdout.count("ended ") == 1
    assert keys("revoke", "nope").returncode == ExitCode.KEYS_UNUSABLE
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    (tmp_path / "data").chmod(0o777)
    assert keys("list").returncode == ExitCode.DATA_UNUSABLE


def test_a_reader_that_goes_away_ends_a_command_quietly() -> None:
    """`orchestratord config | head` prints no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "orchqueue.daemon.main", "config"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.req("ORCH-4028")
def test_documented_exit_statuses_are_all_of_them() -> None:
    """The table for people and the one in the code name the same numbers."""
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    section = text.partition("## orchestratord")[2].partition("\n## ")[0]
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == set(map(int, ExitCode))


def test_serve_ends_with_the_documented_status_when_it_cannot_begin(tmp_path: Path) -> None:
    """Data directory in use, journal damaged, keys open to others, address taken: each has its status and its advice."""
    config = tmp_path / "c.yaml"
    config.write_text(
        "pools: [{id: a, engine: llamacpp, model: 'repo:a/b', launch: {mode: external, urls: ['http://127.0.0.1:9']}}]\n"
    )

    def serve(*options: str) -> tuple[int, str]:
        done = run("serve", "--config", str(config), "--data-dir", str(tmp_path / "data"), *options)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    with DataDirectory(str(tmp_path / "data")):
        status, message = serve("--port", "0")
        assert (status, f"in use by the daemon with pid {os.getpid()}" in message) == (ExitCode.DATA_UNUSABLE, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, message = serve("--port", str(taken.getsockname()[1]))
        assert (status, "cannot be listened on" in message) == (ExitCode.CANNOT_LISTEN, True)
    (tmp_path / "data" / "journal.sqlite").write_bytes(b"rubbish " * 1000)
    status, message = serve("--port", "0")
    assert (status, "is damaged" in message) == (ExitCode.DATA_UNUSABLE, True)
    (tmp_path / "data" / "journal.sqlite").unlink()
    (tmp_path / "k.json").write_text("{}")
    (tmp_path / "k.json").chmod(0o644)
    config.write_text(config.read_text() + "auth: {keys_file: k.json}\n")
    status, message = serve("--port", "0")
    assert (status, "chmod 600" in message) == (ExitCode.KEYS_UNUSABLE, True)
