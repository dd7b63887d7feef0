"""One checksum on its way: computed in a thread, looked at and stopped from the event loop."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from orchqueue.adapters.model_file import ModelHead

PIECE_BYTES = 1 << 20


class Hashing:
    """The SHA-256 of a model's files, one after the other.

    Req: ORCH-4425, ORCH-4428
    """

    def __init__(self, head: ModelHead) -> None:
        self._paths = [Path(stamp.path) for stamp in head.stamps]
        self._size_bytes = head.size_bytes
        self._done_bytes = 0
        self._stopped = False

    def run(self) -> str:
        """Read everything, and give the digest in hex; what was stopped gives a worthless one.

        Errors: OSError.
        Cost: as long as the disk takes; holds the interpreter for no more than moments.
        """
        digest, buffer = sha256(), bytearray(PIECE_BYTES)
        view = memoryview(buffer)
        for path in self._paths:
            with path.open("rb", buffering=0) as file:
                while not self._stopped and (size_bytes := file.readinto(buffer)):
                    digest.update(view[:size_bytes])
                    self._done_bytes += size_bytes
        return digest.hexdigest()

    def stop(self) -> None:
        """Have it end soon: nobody wants it any more, and a thread cannot be cancelled."""
        self._stopped = True

    def told(self) -> str:
        """Say how far it is."""
        percent = min(100, 100 * self._done_bytes // self._size_bytes)
        return f"verifying the checksum of {self._paths[0].name}: {percent} %"
