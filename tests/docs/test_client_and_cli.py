from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchqueue.cli import parser
from orchqueue.client import Client, errors
from tests.unit.client.scripted_server import Asked, Reply, admission, json_reply, serving, stream_reply, transcript

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:30])
@pytest.mark.req("ORCH-4291")
async def test_each_example_of_the_client_runs(block: str) -> None:
    """The programs in docs/client.md work as they stand, but for the address."""

    def script(asked: Asked) -> Reply:
        if asked.method == "POST":
            return json_reply(202, admission(str(asked.json["task_id"])))
        return stream_reply(transcript(["It", " scatters."]))

    async with serving(script) as server:
        program = block.replace('"http://127.0.0.1:8080"', "").replace("Client()", f'Client("{server.url}")')
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert "It" in out.decode()
    assert server.asked


@pytest.mark.req("ORCH-4291")
def test_every_call_and_error_is_documented() -> None:
    """docs/client.md names each call of the client and each exception."""
    text = (DOCS / "client.md").read_text()
    calls = {name for name in dir(Client) if not name.startswith("_")} - {"close"}
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert {name for name in calls | kinds if f"`{name}`" not in text and f".{name}`" not in text} == set()


def subcommands(of: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """List every command under its name, those below another one too."""
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                yield f"{name} {word}".strip(), sub
                yield from subcommands(sub, f"{name} {word}".strip())


@pytest.mark.req("ORCH-4291")
def test_every_command_and_option_is_documented() -> None:
    """docs/cli.md names each command with its options, and none that does not exist."""
    text = (DOCS / "cli.md").read_text()
    options = {"--help"}
    for name, sub in subcommands(parser.build_parser()):
        assert re.search(rf"`orchq {name}\b|^\$.*\borchq {name}\b", text, re.MULTILINE), name
        options |= {word for action in sub._actions for word in action.option_strings if word.startswith("--")}
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert documented == options
