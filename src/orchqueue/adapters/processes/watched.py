"""A process whose end is heard, whoever started it.

Req: ORCH-4378
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from orchqueue.adapters.processes.identity import ProcessId, lives


class WatchedProcess:
    """That very process, held by a descriptor that no later process with its pid can get under.

    `gone`: done when it has ended, or had before.

    Errors: OSError at construction, where the kernel has no descriptor left for us.
    """

    def __init__(self, process: ProcessId) -> None:
        self.process = process
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._pidfd: int | None = None
        with suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(process.pid)
        # Asked after the opening: who has the right start time now is whom the descriptor means.
        if self._pidfd is None or not lives(process):
            self.close()
            self.gone.set_result(None)
        else:
            self._loop.add_reader(self._pidfd, self._end)

    def signal(self, number: signal.Signals) -> bool:
        """Signal it, or nobody when it has ended; tell which."""
        with suppress(OSError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
                return True
        return False

    async def ends_within(self, timeout_s: float) -> bool:
        """Wait for its end; tell whether it came."""
        await asyncio.wait({self.gone}, timeout=timeout_s)
        return self.gone.done()

    def close(self) -> None:
        """Look no longer."""
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)

    def _end(self) -> None:
        self.close()
        if not self.gone.done():
            self.gone.set_result(None)
