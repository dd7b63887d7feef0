"""New settings are in force as a whole, noted only when the core has them, and one step can be taken back."""

import asyncio

import pytest

from orchqueue.core.effects import Done
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.settings import Settings
from orchqueue.runtime.gate import NewSettings
from tests.unit.runtime.rig import Rig
from tests.waiting import until_async


@pytest.fixture
async def rig() -> Rig:
    """Give a runtime that has begun."""
    rig = Rig()
    await rig.runtime.start()
    return rig


def narrower(settings: Settings) -> Settings:
    """Allow fewer turns."""
    return Settings(settings.pools, settings.sessions.__class__(max_turns=3))


@pytest.mark.req("ORCH-4205", "ORCH-4328")
async def test_settings_that_the_core_took_are_noted(rig: Rig) -> None:
    """The answer names what changed, the core runs by it, and the source was told."""
    rig.read = NewSettings(narrower(rig.settings), ("/sessions/max_turns",), ("/server/port",))
    answer = await rig.gate.reload_config()
    assert isinstance(answer, Done)
    assert answer.detail == {"applied": "/sessions/max_turns", "needs_restart": "/server/port"}
    assert (rig.runtime.loop.core.state.settings.sessions.max_turns, rig.adopted) == (3, 1)


@pytest.mark.req("ORCH-4205", "ORCH-4328")
async def test_a_faulty_file_is_not_noted(rig: Rig) -> None:
    """Every fault is told and the source keeps what it had."""
    rig.read = [Fault("/slo", "bad")]
    answer = await rig.gate.reload_config()
    assert isinstance(answer, Refusal)
    assert (answer.faults, rig.adopted) == ((Fault("/slo", "bad"),), 0)


@pytest.mark.req("ORCH-4328")
async def test_settings_that_the_core_never_got_are_not_noted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the mailbox is full a reload is refused, and the source keeps what it had."""
    monkeypatch.setattr(rig.runtime.loop.mailbox, "post_or_refuse", lambda _event: False)
    answer = await rig.gate.reload_config()
    assert isinstance(answer, Refusal)
    assert (answer.outcome, rig.adopted) == (Outcome.REJECTED_BUSY, 0)


@pytest.mark.req("ORCH-4207")
async def test_the_settings_before_come_back(rig: Rig) -> None:
    """A rollback gives the core what the source had before; without any it is a conflict."""
    nothing = await rig.gate.rollback_config()
    assert isinstance(nothing, Refusal)
    assert (nothing.outcome, rig.adopted) == (Outcome.CONFLICT, 0)
    rig.before = NewSettings(narrower(rig.settings), ("/sessions/max_turns",))
    answer = await rig.gate.rollback_config()
    assert isinstance(answer, Done)
    assert (rig.runtime.loop.core.state.settings.sessions.max_turns, rig.adopted) == (3, 1)


@pytest.mark.req("ORCH-4328")
async def test_changes_of_the_settings_come_one_after_another(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is put in force the next is not even read."""
    asked: list[str] = []
    gate, renew = asyncio.Event(), rig.renew

    async def slow(new: NewSettings) -> Done | Refusal:
        asked.append("putting")
        await gate.wait()
        return Refusal(Outcome.REJECTED_BUSY, "later")

    def read() -> NewSettings | list[Fault]:
        asked.append("read")
        return renew()

    monkeypatch.setattr(rig.gate, "_put_in_force", slow)
    monkeypatch.setattr(rig, "renew", read)
    both = [asyncio.create_task(rig.gate.reload_config()) for _ in range(2)]
    await until_async(lambda: len(asked) >= 2, what="the first change")
    assert asked == ["read", "putting"]
    gate.set()
    await asyncio.gather(*both)
    assert asked == ["read", "putting"] * 2
