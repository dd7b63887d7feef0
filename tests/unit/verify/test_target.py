"""Which replicas are compared, from what a deployment says of itself, and refusals that say why."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest

from orchqueue.client import AsyncClient
from orchqueue.client.errors import Forbidden
from orchqueue.client.types import PoolHealth, ReplicaHealth, ReplicaSet
from orchqueue.schema import control, data
from orchqueue.verify.target import CannotVerify, Target, Wish, find_targets


def replica(replica_id: str, **changes: object) -> ReplicaHealth:
    """Make a ready strict replica."""
    made = ReplicaHealth(
        replica_id=replica_id,
        state="ready",
        slots_total=1,
        slots_free=1,
        restarts=0,
        last_error=None,
        strict_proven=True,
    )
    return msgspec.structs.replace(made, **changes)


class Deployment:
    """Answers what the client asks of a deployment with these pools; pools with one letter in front are of one replica set."""

    def __init__(self, determinism: str = "strict", may_look: bool = True, **pools: list[ReplicaHealth]) -> None:
        self._determinism = determinism
        self._may_look = may_look
        self._pools = pools

    async def capabilities(self) -> control.Capabilities:
        """Tell what the pools can do; one whose name ends with `e` makes embeddings only."""
        if not self._may_look:
            raise Forbidden(403, "not allowed")
        pools = [
            control.PoolCapabilities(
                id=name, engine="llamacpp", model=f"repo:x/{name[0]}", engine_version="1", ctx_tokens_max=64, slots=1,
                workloads=["embedding" if name.endswith("e") else "completion"],
                determinism=cast("data.Determinism", self._determinism), prompt_form="raw", sampler_profile_versions=["v1"],
                limits=control.PoolLimits(max_tokens=64, queue_capacity=1),
            )
            for name in self._pools
        ]  # fmt: skip
        limits = control.DaemonLimits(body_bytes_max=1, header_bytes_max=1, readers_per_task_max=1)
        return control.Capabilities(api_version="v1", version="1", limits=limits, pools=pools)

    async def pool_health(self, pool_id: str) -> PoolHealth:
        """Show one."""
        return PoolHealth(
            id=pool_id, live=True, ready=True, draining=False, mode="serving", last_error=None, model=f"repo:x/{pool_id[0]}",
            allow_cpu=True, metrics=control.PoolMetrics(queue_depth=0, tasks_running=0), replicas=self._pools[pool_id],
        )  # fmt: skip

    async def replica_sets(self) -> list[ReplicaSet]:
        """List the sets."""
        sets: dict[str, list[str]] = {}
        for name in self._pools:
            sets.setdefault(name[0], []).append(name)
        return [
            ReplicaSet(
                id=letter, engine="llamacpp", model=f"repo:x/{letter}", ctx_tokens=64, engine_version="1",
                sampler_profile_version="v1", pool_ids=names,
                replica_ids=[one.replica_id for name in names for one in self._pools[name]],
                load=0.0, queue_depth=0, slots_total=1, slots_free=1, slo=[],
            )
            for letter, names in sets.items()
        ]  # fmt: skip


async def find(
    deployment: Deployment, *pool_ids: str, replica_ids: tuple[str, ...] = (), strict: bool = True
) -> list[Target]:
    """Find the targets."""
    return await find_targets(cast("AsyncClient", deployment), Wish(pool_ids, replica_ids, strict))


@pytest.mark.req("ORCH-4231", "ORCH-4402")
async def test_each_replica_set_is_verified_by_itself() -> None:
    """Pools of one set are compared with each other, those of another set are not; each replica has a lane."""
    deployment = Deployment(a1=[replica("a1-0")], a2=[replica("a2-0")], b=[replica("b-0"), replica("b-1")])
    first, second = await find(deployment)
    assert (first.lanes, first.replica_ids) == (("a1", "a2"), ("a1-0", "a2-0"))
    assert (second.lanes, second.replica_ids) == (("b", "b"), ("b-0", "b-1"))
    assert [one.pool_ids for one in await find(deployment, "b")] == [("b",)]


@pytest.mark.req("ORCH-4402")
async def test_named_replicas_only_but_their_neighbours_are_kept_busy() -> None:
    """An idle replica of the pool would take the task that is meant for another, so it has a lane too."""
    deployment = Deployment(a=[replica("a-0"), replica("a-1"), replica("a-2")], b=[replica("b-0")])
    (only,) = await find(deployment, replica_ids=("a-1", "a-2"))
    assert (only.lanes, only.replica_ids) == (("a", "a", "a"), ("a-1", "a-2"))


@pytest.mark.req("ORCH-4402")
async def test_what_is_not_compared_is_said() -> None:
    """A replica that is down, or that takes no strict tasks, is left out with the reason."""
    down = replica("a-1", state="backoff", last_error="host_oom: killed")
    unproven = replica("a-2", strict_proven=False, selftest_note="gave 2 different texts")
    (target,) = await find(Deployment(a=[replica("a-0"), down, unproven]))
    assert target.replica_ids == ("a-0",)
    assert target.notes == (
        "a-1 is not compared: it is backoff (host_oom: killed)",
        "a-2 is not compared: it takes no strict tasks (gave 2 different texts)",
    )


@pytest.mark.req("ORCH-4231", "ORCH-4400")
@pytest.mark.parametrize(
    ("replicas", "told"),
    [
        (
            [replica("a-0", selftest_note="gave 2 different texts")],
            "the self-test disproved it (a-0: gave 2 different texts)",
        ),
        ([replica("a-0", slots_total=4)], "it decodes several tasks at a time"),
        ([replica("a-0")], "its configuration says determinism: best_effort"),
        ([replica("a-0", state="starting")], "no replica is ready (none has started yet)"),
    ],
)
async def test_a_pool_without_the_promise_is_refused_with_the_reason(replicas: list[ReplicaHealth], told: str) -> None:
    """Nothing is verified where nothing is promised; the self-test's own words say why."""
    deployment = Deployment("best_effort", a=replicas)
    for pools in ((), ("a",)):
        with pytest.raises(CannotVerify) as refusal:
            await find(deployment, *pools)
        assert refusal.value.reason == "not_strict"
        assert told in str(refusal.value)
        assert "--best-effort" in str(refusal.value)
    if replicas[0].state == "ready":
        (target,) = await find(deployment, "a", strict=False)
        assert target.strict is False


@pytest.mark.req("ORCH-4231")
@pytest.mark.parametrize(
    ("pools", "replicas", "reason", "told"),
    [
        (("x",), (), "unknown", "there is no pool x that completes texts; those here: a, b"),
        (("be",), (), "unknown", "there is no pool be that completes texts"),
        ((), ("a-9",), "unknown", "replica a-9 cannot be compared: no chosen pool has it"),
        ((), ("a-1",), "not_ready", "a-1 is not compared: it is broken"),
        ((), ("a-0", "b-0"), "unknown", "different replica sets, which promise nothing to each other: a-0 and b-0"),
    ],
)
async def test_wrong_names_are_refused(
    pools: tuple[str, ...], replicas: tuple[str, ...], reason: str, told: str
) -> None:
    """A name that is nowhere, a replica that is down and a pair that promises nothing are each told as what they are."""
    broken = replica("a-1", state="broken", last_error="x")
    deployment = Deployment(a=[replica("a-0"), broken], b=[replica("b-0")], be=[replica("be-0")])
    with pytest.raises(CannotVerify) as refusal:
        await find(deployment, *pools, replica_ids=replicas)
    assert refusal.value.reason == reason
    assert told in str(refusal.value)


@pytest.mark.req("ORCH-4231")
async def test_no_ready_replica_is_told_as_such() -> None:
    """A strict pool whose replicas are all down can be tried later."""
    with pytest.raises(CannotVerify, match="no replica of a is ready") as refusal:
        await find(Deployment(a=[replica("a-0", state="down")]))
    assert refusal.value.reason == "not_ready"


@pytest.mark.req("ORCH-4231")
async def test_a_key_that_may_not_look_at_pools_can_verify_those_it_names() -> None:
    """With the pools named, replicas are learnt from the tasks; without names there is nothing to go by."""
    deployment = Deployment(may_look=False, a=[replica("a-0")])
    (target,) = await find(deployment, "a")
    assert (target.lanes, target.replica_ids) == (("a", "a"), ())
    with pytest.raises(CannotVerify, match="name them with --pool"):
        await find(deployment)
    with pytest.raises(CannotVerify, match="without --replicas"):
        await find(deployment, "a", replica_ids=("a-0",))
