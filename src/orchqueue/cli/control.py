"""`orchq pools`, `replicasets`, `capabilities`, `drain`, `reload`, `rollback`: look at pools and steer them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context

if TYPE_CHECKING:
    from orchqueue.client.types import CanaryHealth, PoolHealth, PoolInfo, PoolOperation

POOLS_DETAILS = """examples:
  orchq pools                 one line for each pool
  orchq pools default         one pool with its replicas
  orchq pools --json | jq 'select(.ready | not)'"""

SETS_DETAILS = """examples:
  orchq replicasets
  orchq replicasets --json | jq .slo"""

CAPABILITIES_DETAILS = """examples:
  orchq capabilities
  orchq capabilities --json | jq '.pools[].ctx_tokens_max'"""

DRAIN_DETAILS = """examples:
  orchq drain default
  orchq drain default --deadline-ms 60000

Waiting tasks move to sibling pools. What is left at the deadline ends with POOL_UNAVAILABLE. Draining again keeps the
shorter deadline. A drained pool takes tasks again when it is reloaded, also with the model that it has."""

RELOAD_DETAILS = """examples:
  orchq reload default bundled:smollm2-135m-instruct-q4_1
  orchq reload default file:/models/new.gguf && orchq pools default
  orchq reload default file:/models/new.gguf --canary-percent 10
  orchq reload default file:/models/new.gguf         give it the rest now, while it is tried

Any failure leaves the old model serving and shows in the pool's last error. 'orchq rollback' returns to it. With
--canary-percent some of the replicas get the new model and that share of the tasks that name none; it gets the rest when
it has kept its levels, and is taken back when it has not. 'orchq pools default' shows how it goes."""

ROLLBACK_DETAILS = """examples:
  orchq rollback default"""


def add_pools_arguments(parser: ArgumentParser) -> None:
    """Add the optional pool."""
    parser.add_argument("pool_id", nargs="?", metavar="POOL", help="show this one in full")


def add_pool_argument(parser: ArgumentParser) -> None:
    """Add the pool."""
    parser.add_argument("pool_id", metavar="POOL", help="id of the pool")


def add_nothing(_: ArgumentParser) -> None:
    """Add no argument."""


def add_drain_arguments(parser: ArgumentParser) -> None:
    """Add the pool and the deadline."""
    add_pool_argument(parser)
    parser.add_argument(
        "--deadline-ms", type=int, default=30_000, metavar="MS", help="end what is left after MS (30000)"
    )


def add_reload_arguments(parser: ArgumentParser) -> None:
    """Add the pool and the model."""
    add_pool_argument(parser)
    parser.add_argument("model_ref", metavar="MODEL", help="file:PATH, sha256:HEX, repo:org/name or bundled:NAME")
    parser.add_argument(
        "--canary-percent",
        type=int,
        default=100,
        metavar="N",
        help="share of the tasks that try it first (100: all at once)",
    )


async def execute_pools(context: Context, args: Namespace) -> int:
    """Print every pool in brief, or one in full.

    Req: ORCH-2103
    """
    output = context.output
    async with context.client() as client:
        if args.pool_id is not None:
            health = await client.pool_health(args.pool_id)
            if context.as_json:
                output.record(health)
            else:
                _show_health(health, context)
            return 0
        pools = await client.pools()
    if context.as_json:
        for pool in pools:
            output.record(pool)
        return 0
    rows = [
        (
            pool.id,
            _state(pool),
            pool.engine,
            pool.model,
            f"{pool.replicas_ready}/{pool.replicas_total}",
            f"{pool.slots_free}/{pool.slots_total}",
            f"{pool.queue_depth.interactive}+{pool.queue_depth.batch}/{pool.queue_capacity}",
            pool.determinism,
            "cpu allowed" if pool.allow_cpu else "",
        )
        for pool in pools
    ]
    header = ("POOL", "STATE", "ENGINE", "MODEL", "REPLICAS", "SLOTS FREE", "WAITING", "DETERMINISM", "NOTE")
    output.table(header, rows)
    return 0


async def execute_replica_sets(context: Context, _: Namespace) -> int:
    """Print every replica set.

    Req: ORCH-2104
    """
    async with context.client() as client:
        sets = await client.replica_sets()
    if context.as_json:
        for one in sets:
            context.output.record(one)
        return 0
    rows = [
        (
            one.id,
            one.engine,
            one.model,
            one.engine_version,
            ",".join(one.pool_ids),
            f"{one.load:.2f}",
            f"{one.slots_free}/{one.slots_total}",
            one.queue_depth,
        )
        for one in sets
    ]
    context.output.table(("SET", "ENGINE", "MODEL", "VERSION", "POOLS", "LOAD", "SLOTS FREE", "WAITING"), rows)
    return 0


async def execute_capabilities(context: Context, _: Namespace) -> int:
    """Print what the deployment can do.

    Req: ORCH-2060
    """
    async with context.client() as client:
        capabilities = await client.capabilities()
    if context.as_json:
        context.output.record(capabilities)
        return 0
    rows = [
        (
            pool.id,
            pool.engine,
            pool.engine_version or "-",
            pool.ctx_tokens_max,
            pool.slots,
            ",".join(pool.workloads),
            pool.determinism,
            pool.prompt_form,
            ",".join(pool.sampler_profile_versions),
        )
        for pool in capabilities.pools
    ]
    context.output.note(f"API {capabilities.api_version}, orchestratord {capabilities.version}")
    header = ("POOL", "ENGINE", "VERSION", "CTX", "SLOTS", "WORKLOADS", "DETERMINISM", "PROMPT", "PROFILES")
    context.output.table(header, rows)
    return 0


async def execute_drain(context: Context, args: Namespace) -> int:
    """Drain a pool.

    Req: ORCH-2101
    """
    async with context.client() as client:
        return _tell(context, await client.drain(args.pool_id, args.deadline_ms))


async def execute_reload(context: Context, args: Namespace) -> int:
    """Reload a pool.

    Req: ORCH-2102
    """
    async with context.client() as client:
        begun = await client.reload(args.pool_id, args.model_ref, args.canary_percent)
    return _tell(context, begun)


async def execute_rollback(context: Context, args: Namespace) -> int:
    """Roll a pool back.

    Req: ORCH-3034
    """
    async with context.client() as client:
        return _tell(context, await client.rollback(args.pool_id))


def _tell(context: Context, begun: PoolOperation) -> int:
    if context.as_json:
        context.output.record(begun)
    else:
        context.output.note(
            f"{begun.operation} of pool {begun.pool_id} begun; 'orchq pools {begun.pool_id}' shows how it goes"
        )
    return 0


def _state(pool: PoolInfo | PoolHealth) -> str:
    if pool.mode != "serving":
        return pool.mode
    return "ready" if pool.ready else "not ready"


def _canary(tried: CanaryHealth) -> list[tuple[str, str | int]]:
    """Tell of a model on trial.

    Req: ORCH-4335
    """
    return [
        ("tries", tried.model),
        ("tried by", f"{tried.percent}%, {tried.tried} of {tried.starts} starts, on {','.join(tried.replica_ids)}"),
        ("trial", f"{tried.state}: {tried.ended} ended, {tried.errors} failed, {tried.late} late"),
    ]


def _show_health(health: PoolHealth, context: Context) -> None:
    output = context.output
    fields = [
        ("pool", health.id),
        ("model", health.model),
        ("state", _state(health)),
        ("live", "yes" if health.live else "no"),
        ("cpu allowed", "yes" if health.allow_cpu else "no"),
        ("waiting", health.metrics.queue_depth),
        ("running", health.metrics.tasks_running),
        ("last error", health.last_error or "-"),
    ]
    if health.canary:
        fields += _canary(health.canary)
    output.table(("FIELD", "VALUE"), fields)
    output.line("")
    rows = [
        (
            replica.replica_id,
            replica.state,
            f"{replica.slots_free}/{replica.slots_total}",
            replica.restarts,
            replica.engine_version or "-",
            replica.pid or "-",
            replica.url or "-",
            replica.last_error or "-",
        )
        for replica in health.replicas
    ]
    output.table(("REPLICA", "STATE", "SLOTS FREE", "RESTARTS", "VERSION", "PID", "URL", "LAST ERROR"), rows)
    for replica in health.replicas:
        if replica.selftest_note:
            output.line(f"{replica.replica_id} takes no strict tasks: {replica.selftest_note}")


COMMANDS = (
    ("pools", "show the pools, or one with its replicas", POOLS_DETAILS, add_pools_arguments, execute_pools),
    ("replicasets", "show the sets of interchangeable replicas", SETS_DETAILS, add_nothing, execute_replica_sets),
    ("capabilities", "show what the server can do", CAPABILITIES_DETAILS, add_nothing, execute_capabilities),
    ("drain", "empty a pool", DRAIN_DETAILS, add_drain_arguments, execute_drain),
    ("reload", "let a pool serve another model", RELOAD_DETAILS, add_reload_arguments, execute_reload),
    ("rollback", "return a pool to its model before the reload", ROLLBACK_DETAILS, add_pool_argument, execute_rollback),
)
