"""Which replicas are compared: found by what the deployment says of itself.

A task can be pinned to a pool, not to a replica. So all replicas of a pool are kept busy with one task each; then a task that
follows another one goes where that one was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec

from orchqueue.client import AsyncClient
from orchqueue.client.errors import Forbidden
from orchqueue.client.types import Capabilities, PoolHealth, ReplicaHealth, ReplicaSet

Reason = Literal["unknown", "not_strict", "not_ready"]
UNSEEN_LANES = 2


class CannotVerify(Exception):
    """There is nothing here that could be verified; `reason` says of which kind that is."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Wish(msgspec.Struct, frozen=True):
    """What shall be compared; empty: everything that is strict."""

    pool_ids: tuple[str, ...] = ()
    replica_ids: tuple[str, ...] = ()
    strict: bool = True


class Target(msgspec.Struct, frozen=True):
    """Replicas of one replica set.

    Shape: `lanes` names a pool for each task that may run at a time. `replica_ids` are compared; empty where the key may not
    look at pools, and then each seed has to be seen on two replicas, whichever they are.
    """

    lanes: tuple[str, ...]
    replica_ids: tuple[str, ...]
    strict: bool = True
    model: str = ""
    notes: tuple[str, ...] = ()

    @property
    def pool_ids(self) -> tuple[str, ...]:
        """Name the pools."""
        return tuple(dict.fromkeys(self.lanes))


async def find_targets(client: AsyncClient, wish: Wish) -> list[Target]:
    """Find the replica sets to verify, one target for each.

    1. Pools that were named, else all; pools that cannot be strict are left out, or refused where they were named.
    2. Of each set the ready replicas, or those that were named. One alone is compared with itself.
    3. A key that may not look at pools needs their names.

    Errors: CannotVerify; what the client raises.
    Req: ORCH-4231, ORCH-4402
    """
    try:
        capabilities = await client.capabilities()
    except Forbidden as error:
        return [_unseen(wish, error)]
    chosen = await _choose(client, capabilities, wish)
    healths = {pool_id: await client.pool_health(pool_id) for pool_id in chosen}
    sets = [
        _target(one, [healths[pool_id] for pool_id in one.pool_ids if pool_id in healths], wish)
        for one in await client.replica_sets()
    ]
    targets = [target for target in sets if target.replica_ids]
    _check_names(targets, [note for target in sets for note in target.notes], wish)
    if not targets:
        raise CannotVerify("not_ready", f"no replica of {_names(chosen)} is ready; try again later")
    return targets


def _unseen(wish: Wish, error: Forbidden) -> Target:
    if not wish.pool_ids or wish.replica_ids:
        raise CannotVerify(
            "unknown", f"the key may not look at pools ({error.message}): name them with --pool, without --replicas"
        ) from error
    note = "the key may not look at pools: which replicas there are is learnt from the tasks"
    return Target(
        tuple(pool_id for pool_id in wish.pool_ids for _ in range(UNSEEN_LANES)), (), wish.strict, "", (note,)
    )


async def _choose(client: AsyncClient, capabilities: Capabilities, wish: Wish) -> list[str]:
    known = {pool.id: pool for pool in capabilities.pools if "completion" in pool.workloads}
    strangers = [pool_id for pool_id in wish.pool_ids if pool_id not in known]
    if strangers or not known:
        raise CannotVerify(
            "unknown",
            f"there is no pool {_names(strangers)} that completes texts; those here: {_names(known) or 'none'}",
        )
    named = list(dict.fromkeys(wish.pool_ids)) or list(known)
    fitting = [pool_id for pool_id in named if known[pool_id].determinism == "strict" or not wish.strict]
    if len(fitting) < len(named) and (wish.pool_ids or not fitting):
        lacking = [pool_id for pool_id in named if pool_id not in fitting]
        reasons = [f"{pool_id}: {why_not_strict(await client.pool_health(pool_id))}" for pool_id in lacking]
        raise CannotVerify(
            "not_strict",
            f"no strict determinism is promised by {_names(lacking)}, so there is nothing to verify; {'; '.join(reasons)}."
            " --best-effort measures how often it differs",
        )
    return fitting


def why_not_strict(health: PoolHealth) -> str:
    """Say why a pool promises no strict determinism.

    Req: ORCH-4400
    """
    told = [f"{one.replica_id}: {one.selftest_note}" for one in health.replicas if isinstance(one.selftest_note, str)]
    if told:
        return f"the self-test disproved it ({'; '.join(told)})"
    ready = [one for one in health.replicas if one.state == "ready"]
    if not ready:
        return f"no replica is ready ({health.last_error or 'none has started yet'})"
    if any(one.slots_total > 1 for one in ready):
        return "it decodes several tasks at a time (slots), which changes texts"
    return "its configuration says determinism: best_effort"


def _target(one: ReplicaSet, healths: Sequence[PoolHealth], wish: Wish) -> Target:
    """Take what is ready of a set, which may be nothing; a model on trial is left out."""
    members = set(one.replica_ids)
    lanes: list[str] = []
    compared: list[str] = []
    notes: list[str] = []
    for health in healths:
        if health.model != one.model:
            continue
        for replica in health.replicas:
            if replica.replica_id not in members or not _named(replica, wish.replica_ids):
                continue
            if (absence := _absence(replica, strict=wish.strict)) is not None:
                notes.append(f"{replica.replica_id} is not compared: {absence}")
            else:
                compared.append(replica.replica_id)
        # All of them, also where few are compared: an idle one would take the task that is meant for another.
        serving = [r for r in health.replicas if r.replica_id in members and r.state == "ready"]
        lanes += [health.id] * (len(serving) if _touches(serving, compared) else 0)
    return Target(tuple(lanes), tuple(compared), wish.strict, one.model, tuple(notes))


def _named(replica: ReplicaHealth, names: Collection[str]) -> bool:
    return not names or replica.replica_id in names


def _touches(replicas: Iterable[ReplicaHealth], names: Collection[str]) -> bool:
    return any(replica.replica_id in names for replica in replicas)


def _absence(replica: ReplicaHealth, *, strict: bool) -> str | None:
    if replica.state != "ready":
        return f"it is {replica.state} ({replica.last_error or 'no error'})"
    if strict and replica.strict_proven is False:
        return f"it takes no strict tasks ({replica.selftest_note or 'its self-test proved nothing'})"
    return None


def _check_names(targets: Sequence[Target], notes: Sequence[str], wish: Wish) -> None:
    found = {name for target in targets for name in target.replica_ids}
    missing = [name for name in wish.replica_ids if name not in found]
    if missing:
        reasons = "; ".join(notes)
        raise CannotVerify(
            "not_ready" if reasons else "unknown",
            f"replica {_names(missing)} cannot be compared: {reasons or 'no chosen pool has it, or it is not ready'}",
        )
    if wish.replica_ids and len(targets) > 1:
        sets = " and ".join(_names(target.replica_ids) for target in targets)
        raise CannotVerify(
            "unknown", f"the replicas are of different replica sets, which promise nothing to each other: {sets}"
        )


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
