"""What simulated clients ask for: sensible tasks, and now and then something that no pool can do.

Req: ORCH-4340
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from uuid import UUID

import msgspec

from orchqueue.core.ids import TaskId, TaskKey, Tenant, task_key
from orchqueue.core.request import PlacementWish, Sampling, TaskSpec, with_seed
from orchqueue_sim.plan import Plan

STAGES = ("before_reply", "before_started", "between_tokens", "before_end")
"""Where a client can vanish, in the order in which a task passes them."""


class Wish(msgspec.Struct):
    """One task that a client wants done. `odd`: nobody can take it. `vanishes`: at which stage its client leaves, if ever."""

    task_id: TaskId
    tenant: Tenant
    spec: TaskSpec
    tries: int = 0
    answered: bool = False
    readers: int = 0
    odd: bool = False
    vanishes: str = ""

    @property
    def key(self) -> TaskKey:
        """Name the task across tenants."""
        return task_key(self.tenant, self.task_id)


def draw_wish(plan: Plan, rng: Random, number: int) -> Wish:
    """Draw a task."""
    task_id = TaskId(str(UUID(int=rng.getrandbits(128), version=4)))
    models = sorted({p.model_ref for p in plan.settings.pools})
    size = rng.choice((0, 0, 0, 60, 260, 3_000))
    spec = TaskSpec(
        prompt=f"task {number} " + "x" * size,
        session_id=f"s{rng.randrange(plan.sessions)}" if plan.sessions and rng.random() < 0.5 else None,
        model_ref=rng.choice(models) if rng.random() < (0.9 if len(models) > 1 else 0.3) else None,
        priority=rng.choice(("interactive", "interactive", "batch")),
        determinism=rng.choice((None, None, "best_effort", "strict")),
        max_tokens=rng.choice((1, 4, 16, 64, 64)),
        deadline_ms=rng.choice((None, None, None, None, None, 60, 500, 5_000)),
        expected_tokens=rng.choice((None, 8)),
        kv_hint=rng.choice(("reuse", "reuse", "cold")),
        on_disconnect=rng.choice((None, None, "cancel", "continue")),
        placement=_placement(plan, rng),
        sampling=Sampling(grammar=rng.choice((None, None, None, None, 'root ::= "a"'))),
    )
    odd = plan.has("odd_requests") and rng.random() < 0.2
    if odd:
        spec = rng.choice(ODDITIES)(spec)
    tenant = Tenant(f"t{rng.randrange(plan.tenants)}")
    wish = Wish(task_id, tenant, with_seed(spec, task_id), odd=odd)
    stages = [stage for stage in STAGES if plan.has(f"vanishing_{stage}")]
    if stages and rng.random() < 0.3:
        wish.vanishes = rng.choice(stages)
    return wish


def _placement(plan: Plan, rng: Random) -> PlacementWish:
    pools = [p.pool_id for p in plan.settings.pools]
    if len(pools) == 1 or rng.random() < 0.6:
        return PlacementWish()
    if rng.random() < 0.3:
        return PlacementWish(avoid=(rng.choice(pools),))
    return PlacementWish(rng.choice(("prefer", "pin")), (rng.choice(pools),))


def _with(**changes: object) -> Callable[[TaskSpec], TaskSpec]:
    return lambda spec: msgspec.structs.replace(spec, **changes)


ODDITIES: tuple[Callable[[TaskSpec], TaskSpec], ...] = (
    _with(model_ref="no-such-model"),
    _with(engine="triton"),
    _with(workload="embedding"),
    _with(placement=PlacementWish("pin", ("nowhere",))),
    _with(placement=PlacementWish("pin")),
    _with(sampler_profile_version="v9"),
    _with(ctx=100_000),
    _with(max_tokens=10_000),
    _with(deadline_ms=1),
)
"""Names that nobody knows, a workload that nobody serves, and what cannot fit or be in time."""
