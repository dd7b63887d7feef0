"""A process that appends for ever and prints the number of each record reported durable; made to be killed."""

import asyncio
import os
import resource
import sys

from orchqueue.adapters.journals.sqlite import SqliteJournal
from tests.conformance.journal.bed import accepted, bound, ended


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


class _Printer:
    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.goal = 0

    def committed(self, seq: int) -> None:
        _say(str(seq))
        if seq >= self.goal > 0:
            self.reached.set()

    def stalled(self, reason: str) -> None:
        _say("stalled")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def healed(self) -> None:
        _say("healed")


async def append_for_ever(path: str, stop_at: int) -> None:
    """Append tasks 0, 1, 2 …; every third is bound, every fifth of them ended. `stop_at` 0: never stop."""
    relaxed = os.environ.get("DURABILITY") == "relaxed"
    journal = SqliteJournal(
        path, asyncio.get_running_loop().call_soon_threadsafe, durability="relaxed" if relaxed else "full"
    )
    journal.recover()
    printer = _Printer()
    printer.goal = 3 * stop_at
    journal.open(printer)
    number = 0
    while number < stop_at or not stop_at:
        name = f"{number:08d}"
        journal.append([accepted(name, "p" * 200), bound(name), ended(name) if number % 5 == 0 else bound(name)])
        number += 1
        await asyncio.sleep(0)
    await printer.reached.wait()
    journal.close()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        size = int(sys.argv[3])
        # Python would leave a compiled module that hits the limit cut off, and whoever imports it after us would fail.
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    asyncio.run(append_for_ever(sys.argv[1], int(sys.argv[2])))
