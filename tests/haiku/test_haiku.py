"""A live model writes a poem that nobody could have prepared: the minute in words and a fresh nonce stand in it.

What it shows: a real engine decodes under a grammar that came through our API, and the stream, the receipt and the
metrics tell of that very run. The grammar puts the two strings there by construction, so it shows nothing of the model's wit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon import metric, running
from tests.haiku.writing import folded, in_one_minute, poem, prepared, refuse_simulated
from tests.simulated import serving


@pytest.mark.real_engine
@pytest.mark.timeout(180)
@pytest.mark.req("ORCH-2001", "ORCH-2002", "ORCH-4241")
async def test_a_live_model_writes_the_minute_and_the_nonce(tmp_path: Path) -> None:
    """A poem of three lines holds both strings, its receipt names engine and model, and tokens_out_total rose by its tokens."""
    with running(tmp_path / "data") as daemon:
        daemon.wait_ready()
        await refuse_simulated(daemon.url)
        before = metric(daemon.url, "tokens_out_total")
        words, nonce, result = await in_one_minute(lambda minute, nonce: poem(daemon.url, minute, nonce))
        assert metric(daemon.url, "tokens_out_total") >= before + result.end.tokens_out > before
    text = folded(result.text)
    assert folded(words) in text
    assert nonce in text
    assert len(result.text.strip().splitlines()) >= 3
    assert result.started is not None
    assert result.started.engine_version == result.end.receipt.engine_version
    assert result.started.model_digest == result.end.receipt.model_digest != ""
    assert not prepared(words, nonce)


@pytest.mark.timeout(90)
@pytest.mark.req("ORCH-4241")
async def test_a_simulated_engine_is_refused(tmp_path: Path) -> None:
    """A deployment of simulated engines is told apart before it is asked, because what they write means nothing."""
    with serving(tmp_path) as daemon, pytest.raises(AssertionError, match="simulated engines write no poems"):
        await refuse_simulated(daemon.url)


@pytest.mark.req("ORCH-4241")
async def test_a_flip_of_the_minute_is_asked_again_once() -> None:
    """When the minute changed while the model wrote, a second poem is asked for, with the new minute and a new nonce."""
    asked: list[tuple[int, str]] = []

    async def write(minute: int, nonce: str) -> int:
        asked.append((minute, nonce))
        return minute

    minutes = iter([41, 42, 42, 42])
    words, nonce, answer = await in_one_minute(write, lambda: next(minutes))
    assert (words, nonce, answer) == ("forty-two", asked[1][1], 42)
    assert asked[0][0] == 41
    assert asked[0][1] != asked[1][1]
