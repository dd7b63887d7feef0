"""What TGI's `/metrics` tells of its work, without I/O.

Req: ORCH-4213, ORCH-4273
"""

from __future__ import annotations

import msgspec

_QUEUED = b"tgi_queue_size"
_BATCHED = b"tgi_batch_current_size"
_BEGUN = b"tgi_batch_inference_count"
_ENDED = (b"tgi_batch_inference_success", b"tgi_batch_inference_failure")
_RESERVED = b"tgi_batch_current_max_tokens"
_ROOM = b"tgi_batch_total_tokens"
_SERVED = b"tgi_request_success"
_WANTED = (_QUEUED, _BATCHED, _BEGUN, *_ENDED, _RESERVED, _ROOM, _SERVED)


class Gauges(msgspec.Struct, frozen=True):
    """How much it works. `calls_begun`, `calls_ended`: runs of the model, each for the whole batch.

    Units: `reserved_tokens` of `room_tokens` are kept for the requests of the batch; 0 where it is not told.
    """

    queued: int
    batched: int
    calls_begun: int
    calls_ended: int
    reserved_tokens: int
    room_tokens: int

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits, is in the batch or is being computed.

        A prompt that is being read is in neither gauge: it shows only as a call that has not ended.
        """
        return not self.queued and not self.batched and self.calls_begun <= self.calls_ended

    @property
    def kv_usage_ratio(self) -> float | None:
        """Give the share of the KV memory that is promised to the batch."""
        return min(1.0, self.reserved_tokens / self.room_tokens) if self.room_tokens else None


def read_gauges(text: bytes) -> Gauges | None:
    """Read the figures; None where the text is no exposition of TGI, or of one that does not count its work.

    What was never counted does not show, so a router that has served nothing yet tells next to nothing. One that has, and shows no
    run of a model, has a backend that keeps no figures.

    Cost: one look at each line; an exposition has some thousand of them.

    >>> read_gauges(b'tgi_queue_size 2').queued
    2
    """
    sums = dict.fromkeys(_WANTED, 0.0)
    is_exposition = not text.strip()
    for line in text.split(b"\n"):
        if not line.startswith(b"tgi_"):
            is_exposition = is_exposition or line.startswith((b"# TYPE tgi_", b"# HELP tgi_"))
            continue
        is_exposition = True
        name = line.partition(b" ")[0].partition(b"{")[0]
        if name in sums:
            try:
                sums[name] += float(line.rpartition(b" ")[2])
            except ValueError:
                return None
    if not is_exposition or (sums[_SERVED] and not sums[_BEGUN]):
        return None
    return Gauges(
        queued=int(sums[_QUEUED]),
        batched=int(sums[_BATCHED]),
        calls_begun=int(sums[_BEGUN]),
        calls_ended=int(sum(sums[name] for name in _ENDED)),
        reserved_tokens=int(sums[_RESERVED]),
        room_tokens=int(sums[_ROOM]),
    )
