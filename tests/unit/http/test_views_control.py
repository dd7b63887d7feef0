"""What the core's pictures look like to an operator, from a core driven by hand."""

import msgspec
import pytest

from orchqueue.core import events as ev
from orchqueue.core import views
from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.http.views_control import pool_health, pool_info, replica_sets
from orchqueue.http.views_models import models
from orchqueue.ports.models import NoModels
from tests.unit.core.driving import Driver, pool_settings
from tests.unit.core.trying import one_after_another, trial

POOL = PoolId("p")


def health(core: Driver) -> dict[str, object]:
    """Show the driver's one pool as `GET /v1/pools/p/health` does."""
    (pool,) = views.pools(core.core.state)
    shown: dict[str, object] = msgspec.to_builtins(pool_health(pool))
    brief: dict[str, object] = msgspec.to_builtins(pool_info(pool))
    assert [brief[name] for name in ("mode", "draining")] == [shown[name] for name in ("mode", "draining")]
    return shown


@pytest.mark.req("ORCH-4126")
def test_a_drained_pool_says_so_and_what_brings_it_back() -> None:
    """A pool is told from a broken one while it is drained and after, until a reload brings it back."""
    core = Driver()
    core.submit("runs")
    modes = [health(core)]
    core.handle(ev.DrainRequested(core.reply(), POOL, 1_000))
    modes.append(health(core))
    core.complete(1)
    modes.append(health(core))
    core.handle(ev.ReloadRequested(core.reply(), POOL, "m"))
    core.handle(ev.ModelVerified(POOL, "m", ""))
    modes.append(health(core))
    assert [(shown["mode"], shown["draining"]) for shown in modes] == [
        ("serving", False),
        ("draining", True),
        ("drained", True),
        ("reloading", False),
    ]
    assert [shown["last_error"] is None for shown in modes] == [True, True, False, True]
    assert "reloaded" in str(modes[2]["last_error"])


@pytest.mark.req("ORCH-4132")
def test_an_external_replica_shows_its_url_before_it_was_ever_ready() -> None:
    """Who has mistyped a URL sees it beside the reason."""
    settings = pool_settings()
    (replica,) = settings.replicas
    far = msgspec.structs.replace(replica, url="http://far:1")
    core = Driver(msgspec.structs.replace(settings, replicas=(far,)), up=False)
    replicas = health(core)["replicas"]
    assert isinstance(replicas, list)
    assert [(shown["url"], shown["state"]) for shown in replicas] == [("http://far:1", "starting")]


@pytest.mark.req("ORCH-4263")
def test_a_device_that_replicas_share_is_counted_once() -> None:
    """What a pool's health says of device memory is what its devices hold, however many replicas use them."""
    core = Driver(pool_settings(replicas=2))
    assert "vram_used_bytes" not in str(health(core)["metrics"])
    shared = ev.DeviceFigures("cuda:0", 10, 1 << 30, 1)
    own = ev.DeviceFigures("cuda:1", 10, 1 << 20, 1)
    core.handle(ev.ReplicaScraped(ReplicaId("pr0"), devices=(shared, ev.DeviceFigures("cuda:2"))))
    core.handle(ev.ReplicaScraped(ReplicaId("pr1"), devices=(shared, own)))
    metrics = health(core)["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["vram_used_bytes"] == (1 << 30) + (1 << 20)


@pytest.mark.req("ORCH-2104", "ORCH-4030", "ORCH-4330", "ORCH-4335")
def test_a_canary_shows_in_health_sets_and_models() -> None:
    """Health tells what is tried and how it goes; the tried model is a set and a model of its own."""
    core = trial(10)
    one_after_another(core, 11)
    shown = health(core)
    assert shown["model"] == "m"
    counts = {"starts": 11, "tried": 1, "ended": 1, "errors": 0, "first_tokens": 0, "late": 0}
    assert shown["canary"] == {"model": "new", "percent": 10, "replica_ids": ["pr1"], "state": "trying", **counts}
    replicas = shown["replicas"]
    assert isinstance(replicas, list)
    assert [(one["replica_id"], one["model"], one["model_digest"]) for one in replicas] == [
        ("pr0", "m", "digest-m"),
        ("pr1", "new", "digest-new"),
    ]
    pools = views.pools(core.core.state)
    sets = {one.model: one.replica_ids for one in replica_sets(pools).replica_sets}
    assert sets == {"m": ["pr0"], "new": ["pr1"]}
    found = [(one.ref, one.digest, one.pool_ids) for one in models(pools, NoModels()).models]
    assert found == [("m", "digest-m", ["p"]), ("new", "digest-new", ["p"])]


@pytest.mark.req("ORCH-4400")
def test_health_tells_what_the_self_test_proved() -> None:
    """Before its first self-test a replica tells nothing, then whether it repeats itself, and why not."""
    core = Driver(up=False)
    replicas = health(core)["replicas"]
    assert isinstance(replicas, list)
    assert "strict_proven" not in replicas[0]
    for strict_proven, note in ((True, ""), (False, "the same prompt and seed gave 2 different texts")):
        core = Driver(up=False)
        core.ready(ReplicaId("pr0"), strict_proven=strict_proven, selftest_note=note)
        replicas = health(core)["replicas"]
        assert isinstance(replicas, list)
        assert [(one["strict_proven"], one.get("selftest_note", "")) for one in replicas] == [(strict_proven, note)]
