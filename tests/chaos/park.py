"""Simulated engines as processes that are killed and come back at the same port."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

import httpx

from tests.chaos.leash import LEASHED
from tests.chaos.timing import pass_time


class Engine:
    """One engine: its port stays, its processes come and go."""

    def __init__(self, tokens_per_s: float) -> None:
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None
        self.away = False
        self._tokens_per_s = tokens_per_s

    @property
    def url(self) -> str:
        """Give the base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Give the present or latest process."""
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Start a process and wait until it listens: the first at a port of the system's choice, the later ones there too.

        A port may be somebody else's for a moment while its engine is away; then the engine is away a little longer.
        """
        while not await self._listens():
            await pass_time(0.2)

    async def _listens(self) -> bool:
        self.process = await asyncio.create_subprocess_exec(
            *LEASHED, "-m", "orchqueue_sim.main", "engine", "llamacpp",
            "--port", str(self.port), "--tokens-per-s", str(self._tokens_per_s),
            stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        said = (await self.process.stdout.readline()).decode()
        if not said:
            assert self.port, "a simulated engine does not start"
            await self.process.wait()
            return False
        self.port = int(said.rpartition(":")[2])
        return True

    async def speaks(self) -> bool:
        """Tell whether it works on a task now."""
        try:
            async with httpx.AsyncClient(verify=False, timeout=1) as http:
                return any(slot["is_processing"] for slot in (await http.get(f"{self.url}/slots")).json())
        except httpx.HTTPError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Signal the present process."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def end(self) -> None:
        """Kill it and see it gone."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            await self.process.wait()


class Park:
    """All simulated engines of a run. Whoever falls is up again shortly."""

    def __init__(self, count: int, tokens_per_s: float) -> None:
        self.engines = [Engine(tokens_per_s) for _ in range(count)]
        self._revivals: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start all."""
        await asyncio.gather(*(engine.start() for engine in self.engines))

    async def close(self) -> None:
        """End all."""
        while self._revivals:
            await asyncio.wait(self._revivals)
        for engine in self.engines:
            await engine.end()

    async def kill(self, engine: Engine, away_s: float) -> None:
        """Kill an engine now; it comes back by itself after a while. One that is away already is left alone."""
        if engine.away:
            return
        engine.away = True
        await engine.end()
        task = asyncio.create_task(self._revive(engine, away_s))
        self._revivals.add(task)
        task.add_done_callback(self._revivals.discard)

    async def settle(self) -> None:
        """Wait until every engine is back."""
        while self._revivals:
            await asyncio.wait(self._revivals)
        for engine in self.engines:
            engine.signal(signal.SIGCONT)

    async def _revive(self, engine: Engine, away_s: float) -> None:
        await pass_time(away_s)
        await engine.start()
        engine.away = False
