"""What a disk still has after a power cut: everything up to its last sync, and of what was written since, whatever it likes."""

import random
from pathlib import Path

import msgspec

SECTOR_BYTES = 512


class _Kept(msgspec.Struct):
    synced: bytearray = msgspec.field(default_factory=bytearray)
    loose: list[tuple[int, bytes]] = []
    """Written since the last sync, by place; a negative place cuts the file off there."""


def _put(image: bytearray, at: int, data: bytes) -> None:
    if at < 0:
        del image[-at - 1 :]
        return
    image.extend(bytes(max(0, at - len(image))))
    image[at : at + len(data)] = data


class ForgetfulDisk:
    """Follows the two files of one journal. Sectors stay whole; nothing else does, and there is no order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        # "other" is what SQLite needs for a moment while a file is made; nothing of it is left.
        self._files = {"file": _Kept(), "log": _Kept(), "other": _Kept()}

    def written(self, kind: str, at: int, data: bytes) -> None:
        """Take a write that may be lost."""
        self._files[kind].loose.append((at, data))

    def cut_off(self, kind: str, size: int) -> None:
        """Take a new length that may be lost."""
        self._files[kind].loose.append((-size - 1, b""))

    def synced(self, kind: str) -> None:
        """Keep what one file has, for good."""
        kept = self._files[kind]
        for at, data in kept.loose:
            _put(kept.synced, at, data)
        kept.loose.clear()

    def fail_to_sync(self, kind: str) -> None:
        """Let go of what could not be written, as a system does that calls its memory clean after a failed sync."""
        self._files[kind].loose.clear()

    def lose_power(self, path: Path) -> None:
        """Write what is left into a directory of its own."""
        path.parent.mkdir()
        for kind, name in (("file", path.name), ("log", path.name + "-wal")):
            kept = self._files[kind]
            image = bytearray(kept.synced)
            for at, data in kept.loose:
                for start, piece in self._survivors(at, data):
                    _put(image, start, piece)
            path.with_name(name).write_bytes(image)

    def _survivors(self, at: int, data: bytes) -> list[tuple[int, bytes]]:
        fate = self._random.randrange(4)
        if fate == 0:
            return []
        if fate == 1 or not data:
            return [(at, data)]
        pieces = [(at + first, data[first : first + SECTOR_BYTES]) for first in range(0, len(data), SECTOR_BYTES)]
        return [piece for piece in pieces if self._random.random() < 0.5]
