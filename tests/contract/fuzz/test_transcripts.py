"""The judge of streams finds each fault that a stream can have."""

from __future__ import annotations

import pytest

from tests.contract.fuzz.transcripts import transcript_faults

SHA = "8e18bd2e335cd21ec45b4625678dc0095a0dc42605d87dad88ecf36270c22b77"
RECEIPT = (
    f'{{"digest":"{SHA}","seed":1,"params_digest":"{SHA}","sampler_profile_version":"v1","engine":"llamacpp",'
    '"engine_version":"v","model_digest":"d","attempts":1,"durable":true}'
)
METRICS = 'event: metrics\ndata: {"queue_position":1,"predicted_start_ms":900}\n\n'
STARTED = (
    'id: 0:00000000\nevent: started\ndata: {"queue_position":1,"predicted_start_ms":900,"seed":1,"pool_id":"p",'
    '"replica_id":"p-0","engine_version":"v","model_digest":"d","determinism":"strict","queue_time_ms":871}\n\n'
)
BE = 'id: 2:be4eaaaf\nevent: token\ndata: {"t":"Be","i":0}\n\n'
CAUSE = 'id: 8:332c4e38\nevent: token\ndata: {"t":"cause.","i":1}\n\n'
END = (
    'id: 8:332c4e38:end\nevent: end\ndata: {"tokens_out":2,"decode_ms":31,"finish_reason":"stop","canceled":false,'
    f'"receipt":{RECEIPT}}}\n\n'
)
ERROR = (
    'id: 8:332c4e38:end\nevent: error\ndata: {"code":"WORKER_RESET","message":"lost","retriable":true,'
    '"correlation_id":"c"}\n\n'
)
WHOLE = METRICS + ": hb\n\n" + STARTED + BE + CAUSE + END


def test_whole_streams_pass() -> None:
    """A whole stream has no fault, nor has one that fails, nor what follows an event."""
    assert transcript_faults(WHOLE.encode()) == []
    assert transcript_faults((STARTED + BE + CAUSE + ERROR).encode()) == []
    assert transcript_faults((CAUSE + END).encode(), "2:be4eaaaf") == []
    assert transcript_faults(ERROR.encode(), "684:b4008e70") == []
    assert transcript_faults((BE + ERROR).encode(), "684:b4008e70") != []


@pytest.mark.req("ORCH-4045", "ORCH-4048")
@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (WHOLE.removesuffix(END), "no terminal event"),
        ("", "no terminal event"),
        (WHOLE + END, "2 terminal events"),
        (STARTED + BE + CAUSE + ERROR + END, "2 terminal events"),
        (STARTED + END + BE, "follows the terminal event"),
        (WHOLE[:-1], "inside an event"),
        (WHOLE.replace(STARTED, STARTED + STARTED), "started comes 2 times"),
        (BE + STARTED + CAUSE + END, "before started"),
        (WHOLE.replace(BE, ""), "its position is"),
        (WHOLE.replace('"i":1', '"i":2'), "i has a gap"),
        (WHOLE.replace("2:be4eaaaf", "2:be4eaaae"), "its position is 2:be4eaaaf"),
        (WHOLE.replace("8:332c4e38:end", "9:332c4e38:end"), "its position is 8:332c4e38:end"),
        (WHOLE.replace(f'"digest":"{SHA}"', f'"digest":"{SHA[::-1]}"', 1), "not that of the text"),
        (WHOLE.replace('"t":"Be"', '"text":"Be"'), "/data/t"),
        (WHOLE.replace("event: token", "event: tokens"), "unknown event"),
        (WHOLE.replace("event: metrics", "id: 0:00000000\nevent: metrics"), "/id"),
        (WHOLE.replace("event: end", "retry: 1\nevent: end"), "a line that no event has"),
        (WHOLE.replace('"WORKER', '"X').replace("data: {", "data:{"), "a line that no event has"),
    ],
)  # fmt: skip
def test_each_fault_is_found(stream: str, told: str) -> None:
    """Whatever is wrong with a stream is told in plain words."""
    faults = transcript_faults(stream.encode())
    assert faults
    assert told in "; ".join(faults)
