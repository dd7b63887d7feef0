"""Run `orchq` as a person does: as a process of its own, with pipes or a terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

ORCHQ = (sys.executable, "-m", "orchqueue.cli.main")
ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Ran:
    """What a finished command left."""

    status: int | None
    out: str
    err: str


async def start(*argv: str, url: str = "", env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """Start a command with pipes."""
    environment = {**ENVIRONMENT, **({"ORCHQ_URL": url} if url else {}), **(env or {})}
    return await asyncio.create_subprocess_exec(
        *ORCHQ,
        *argv,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def orchq(*argv: str, url: str = "", stdin: bytes = b"", env: dict[str, str] | None = None) -> Ran:
    """Run a command to its end."""
    process = await start(*argv, url=url, env=env)
    out, err = await process.communicate(stdin)
    return Ran(process.returncode, out.decode(), err.decode())


async def on_terminal(*argv: str, url: str) -> tuple[int, str, str]:
    """Run a command whose output and errors are two terminals; return its status and what they show."""
    out_main, out_side = os.openpty()
    err_main, err_side = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *ORCHQ,
        *argv,
        env={**ENVIRONMENT, "ORCHQ_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=out_side,
        stderr=err_side,
    )
    os.close(out_side)
    os.close(err_side)
    shown = await asyncio.gather(asyncio.to_thread(_read_all, out_main), asyncio.to_thread(_read_all, err_main))
    return await process.wait(), shown[0].decode(), shown[1].decode()


def _read_all(terminal: int) -> bytes:
    pieces = []
    try:
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(terminal)
    return b"".join(pieces)
