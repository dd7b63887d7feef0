"""What the driver says of the GPUs of this machine.

Req: ORCH-3010
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress

from orchqueue.core.events import DeviceFigures

INTERVAL_S = 2.0
TIMEOUT_S = 10.0
MIB = 1024 * 1024


async def query_devices(fields: str) -> list[list[str]]:
    """Ask `nvidia-smi` for some fields of every device.

    Shape: one list of the fields' texts for each device.
    Errors: OSError where the driver's tool cannot be run or does not answer.
    """
    process = await asyncio.create_subprocess_exec(
        "nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise OSError(f"no answer within {TIMEOUT_S:g} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
    return [[field.strip() for field in line.split(",")] for line in output.decode("utf-8", "replace").splitlines()]


class DeviceProbe:
    """Reads the devices' figures for all replicas together, at most once in a while: each question starts a process.

    Req: ORCH-4263
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._asked_at_s = -math.inf
        self._answer: asyncio.Task[dict[int, DeviceFigures]] | None = None

    async def read(self, indices: Sequence[int]) -> tuple[DeviceFigures, ...]:
        """Give the figures of those devices that the driver knows; none where there is no driver."""
        if not indices:
            return ()
        now_s = asyncio.get_running_loop().time()
        if self._answer is None or (self._answer.done() and now_s - self._asked_at_s >= self._interval_s):
            self._asked_at_s = now_s
            self._answer = asyncio.get_running_loop().create_task(_read_all())
        found = await asyncio.shield(self._answer)
        return tuple(found[index] for index in indices if index in found)


async def _read_all() -> dict[int, DeviceFigures]:
    try:
        rows = await query_devices("index,utilization.gpu,memory.used,memory.free")
    except OSError:
        return {}
    found: dict[int, DeviceFigures] = {}
    for row in rows:
        if len(row) == 4 and row[0].isdigit():
            busy, used_mib, free_mib = (int(field) if field.isdigit() else None for field in row[1:])
            found[int(row[0])] = DeviceFigures(
                f"cuda:{row[0]}",
                busy,
                None if used_mib is None else used_mib * MIB,
                None if free_mib is None else free_mib * MIB,
            )
    return found
