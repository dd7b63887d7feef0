"""A pool in the middle of a canary, for tests of what happens to it."""

from __future__ import annotations

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.canary import Canary
from orchqueue.core.ids import PoolId
from orchqueue.core.settings import CanaryLevels, Supervision
from tests.unit.core.driving import Driver, pool_settings

P = PoolId("p")
LOOSE = CanaryLevels(tasks=1_000, errors_per_mille=1_000)
PATIENT = CanaryLevels("manual", tasks=4, errors_per_mille=250)


def ask(core: Driver, percent: int, model_ref: str = "new") -> None:
    """Ask for a model, for a share of the tasks."""
    core.handle(ev.ReloadRequested(core.reply(), P, model_ref, percent))


def trial(percent: int = 50, replicas: int = 2, levels: CanaryLevels = LOOSE, breaker_failures: int = 5) -> Driver:
    """Give a pool that tries the model `new` on its last replicas."""
    core = Driver(
        pool_settings(replicas=replicas, canary=levels, supervision=Supervision(breaker_failures=breaker_failures))
    )
    ask(core, percent)
    core.handle(ev.ModelVerified(P, "new", ""))
    for name in canary(core).replica_ids:
        core.handle(ev.ReplicaStopped(name))
        core.ready(name)
    return core


def canary(core: Driver) -> Canary:
    """Give the pool's canary."""
    found = core.pool().canary
    assert found is not None
    return found


def went(core: Driver) -> list[str]:
    """Name the replicas of all starts, in order."""
    return [e.replica_id for e in core.wanted(fx.StartAttempt)]


def one_after_another(core: Driver, count: int, **fields: object) -> list[str]:
    """Run so many tasks, each when the one before has ended; tell where they ran."""
    before = len(went(core))
    for _ in range(count):
        core.submit(f"t{len(core.starts)}", **fields)
        core.complete(len(core.starts))
    return went(core)[before:]
