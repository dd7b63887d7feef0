"""Accounts after a crash and under new limits."""

import msgspec
import pytest

from orchqueue.core import events as ev
from orchqueue.core import quotas
from orchqueue.core.accounts import Hold
from orchqueue.core.ids import AttemptId, PoolId, TaskId, Tenant
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Ended
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Quotas, TenantSettings
from tests.unit.core.driving import TENANT, Driver, pool_settings
from tests.unit.core.test_ledger_flow import ASKED, OTHER, account, limited, missing, submit

pytestmark = pytest.mark.req("ORCH-4151")


def accepted(name: str, at_ms: int, tenant: Tenant = TENANT) -> Accepted:
    """Describe an earlier life's acceptance."""
    spec = TaskSpec(prompt="hi", seed=1, max_tokens=8)
    return Accepted(tenant, TaskId(name), spec, PoolId("p"), True, "v1", 3, at_ms, "k", "c", "m")


@pytest.mark.req("ORCH-4302")
def test_a_crash_gives_nobody_a_fresh_minute() -> None:
    """What ended is missing as it was before, what is unfinished holds and is missing since its acceptance, beyond any limit."""
    allowed = Quotas(requests_per_s=1, burst=9, tokens_per_minute=60, concurrent_tasks=1, queued_tasks=1)
    core = limited(allowed)
    now = core.now_ms
    ended = Ended(TENANT, TaskId("old"), Outcome.COMPLETED, now - 9_000, now + 9, 3, 27, 40, started_at_ms=now - 9_500)
    core.handle(ev.TaskRestored(accepted("old", now - 9_900), ended))
    assert missing(core) == 30 - 9 - 1, "a second less the part that came back between acceptance and end"
    assert account(core).requests_taken.as_of_ms == now - 9_900
    for name in ("one", "two", "three"):
        core.handle(ev.TaskRecovered(accepted(name, now - 8_000)))
    assert (account(core).tasks, account(core).tokens) == (3, 3 * ASKED)
    assert missing(core) == 30 + 3 * ASKED - 9 - 1
    assert core.task("one").hold == Hold(TENANT, "k", ASKED, 0, waiting=False)
    core.handle(ev.TaskRestored(accepted("other", now, OTHER), msgspec.structs.replace(ended, tenant=OTHER)))
    assert {tenant for tenant, _ in core.core.state.ledger.accounts} == {TENANT}


@pytest.mark.req("ORCH-4302", "ORCH-4305")
def test_a_key_gets_no_fresh_minute_either() -> None:
    """What it used is missing, for it and for no other key, and comes back with time."""
    core = limited(per_key=Quotas(tokens_per_minute=60))
    now = core.now_ms
    ended = Ended(TENANT, TaskId("old"), Outcome.COMPLETED, now, now + 9, 3, 27, 40, started_at_ms=now)
    core.handle(ev.TaskRestored(accepted("old", now), ended))
    state = core.core.state
    shown = [
        quotas.uses(state, TENANT, key_id, now + ms)[0].in_use for key_id, ms in (("k", 0), ("l", 0), ("k", 5_000))
    ]
    assert shown == [30, 0, 25]


@pytest.mark.req("ORCH-4302")
def test_a_clock_that_was_set_back_takes_what_comes_from_the_future_as_of_now() -> None:
    """Neither its acceptance nor its end lies ahead."""
    core = limited(Quotas(requests_per_s=1, burst=9, tokens_per_minute=60))
    now = core.now_ms
    ended = Ended(TENANT, TaskId("old"), Outcome.COMPLETED, now + 70, now + 90, 3, 27, 40, started_at_ms=now)
    core.handle(ev.TaskRestored(accepted("old", now + 50), ended))
    taken = account(core)
    assert (taken.requests_taken.as_of_ms, taken.tokens_taken.as_of_ms) == (now, now)


@pytest.mark.req("ORCH-4302")
def test_context_is_held_again_as_soon_as_an_engine_tells_what_a_token_takes() -> None:
    """Tasks of an earlier life are there before any engine; what another pool's tasks hold stays."""
    allowed = TenantSettings(TENANT, 1, Quotas(kv_mb=9))
    core = Driver(pool_settings(), pool_settings("q"), up=False, tenants=(allowed,))
    core.handle(ev.TaskRecovered(accepted("one", core.now_ms)))
    core.handle(ev.TaskRecovered(accepted("free", core.now_ms, OTHER)))
    assert account(core).kv_bytes == 0
    core.ready("qr0", kv_bytes_per_token=5_000)
    assert account(core).kv_bytes == 0
    core.ready("pr0", kv_bytes_per_token=100_000)
    assert account(core).kv_bytes == 11 * 100_000
    assert quotas.disagreements(core.core.state) == []
    core.complete(1)
    assert account(core).kv_bytes == 0


@pytest.mark.req("ORCH-4304")
def test_new_quotas_hold_at_once_and_count_what_runs_already() -> None:
    """A tenant that had none gets an account with its tasks in it; one that has none any more loses it."""
    core = limited(Quotas(tokens_per_minute=100))
    submit(core, "running")
    submit(core, "waiting")
    core.handle(ev.TaskSubmitted(core.reply(), TaskId("t"), OTHER, TaskSpec(prompt="hi", seed=1, max_tokens=8), "k"))
    core.handle(
        ev.TaskSubmitted(core.reply(), TaskId("c"), OTHER, TaskSpec(prompt="x" * 300, seed=1, max_tokens=8), "k")
    )
    settings = core.core.state.settings

    def reload(*tenants: TenantSettings) -> None:
        core.handle(ev.SettingsReplaced(core.reply(), msgspec.structs.replace(settings, tenants=tenants)))

    reload(TenantSettings("*", 1, Quotas(concurrent_tasks=2, tokens_per_minute=100)))
    assert missing(core) == 2 * ASKED
    assert (account(core).tasks, account(core).waiting) == (2, 1)
    assert core.core.state.ledger.accounts[OTHER, None].tasks == 1
    assert submit(core, "more") is not None
    reload(TenantSettings("beta", 1, Quotas(concurrent_tasks=1)))
    assert set(core.core.state.ledger.accounts) == {(OTHER, None)}
    assert core.task("running").hold is None
    core.complete(1)
    reload()
    assert core.core.state.ledger.accounts == {}


@pytest.mark.req("ORCH-4304")
def test_a_running_task_that_gets_an_account_is_booked_as_running() -> None:
    """Its end is taken in full: nothing was taken when it was accepted."""
    core = limited()
    submit(core, "t")
    new = TenantSettings(TENANT, 1, Quotas(tokens_per_minute=60, queued_tasks=1))
    core.handle(ev.SettingsReplaced(core.reply(), msgspec.structs.replace(core.core.state.settings, tenants=(new,))))
    assert core.task("t").hold == Hold(TENANT, "k", 0, 0, waiting=False)
    core.handle(ev.AttemptCompleted(AttemptId(1), "stop", 3, 4, 1, 1))
    assert missing(core) == 7
