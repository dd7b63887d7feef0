"""`orchq health`, `metrics`, `config-reload` and `config-rollback`: the server itself."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context

if TYPE_CHECKING:
    from orchqueue.client.types import ConfigReloaded

HEALTH_DETAILS = """examples:
  orchq health
  until orchq -q health; do sleep 1; done       wait until tasks are admitted

Status 0 when tasks are admitted, 3 when the server lives but admits none, 6 when there is no server."""

METRICS_DETAILS = """examples:
  orchq metrics | grep tokens_out_total"""

CONFIG_DETAILS = """examples:
  orchq config-reload

All or nothing: with any fault in the file nothing changes, and every fault is listed. 'orchq config-rollback' takes
the change back."""

CONFIG_ROLLBACK_DETAILS = """examples:
  orchq config-rollback

What was in force before the last reload is in force again. The file stays as it is: mend it before the next reload."""


def add_nothing(_: ArgumentParser) -> None:
    """Add no argument."""


async def execute_health(context: Context, _: Namespace) -> int:
    """Tell whether the server lives and admits tasks."""
    async with context.client() as client:
        await client.healthz()
        ready = await client.readyz()
    if context.as_json:
        context.output.record(ready)
    else:
        context.output.note(f"ready: {ready.pools_ready} of {ready.pools_total} pools take tasks")
    return 0


async def execute_metrics(context: Context, _: Namespace) -> int:
    """Print the metrics as they are."""
    async with context.client() as client:
        text = await client.metrics()
    if context.as_json:
        context.output.record({"metrics": text})
    else:
        context.output.text(text)
    return 0


async def execute_config_reload(context: Context, _: Namespace) -> int:
    """Let the server read its file again.

    Req: ORCH-4205
    """
    async with context.client() as client:
        return _tell(context, await client.reload_config())


async def execute_config_rollback(context: Context, _: Namespace) -> int:
    """Take the last reload of the configuration back.

    Req: ORCH-4207
    """
    async with context.client() as client:
        return _tell(context, await client.rollback_config())


def _tell(context: Context, changed: ConfigReloaded) -> int:
    if context.as_json:
        context.output.record(changed)
        return 0
    rows = [(place, "in force") for place in changed.applied]
    rows += [(place, "after a restart") for place in changed.needs_restart]
    context.output.table(("CHANGED", "EFFECT"), rows)
    if not rows:
        context.output.note("nothing changed")
    return 0


COMMANDS = (
    ("health", "tell whether the server admits tasks", HEALTH_DETAILS, add_nothing, execute_health),
    ("metrics", "print the server's metrics", METRICS_DETAILS, add_nothing, execute_metrics),
    (
        "config-reload",
        "let the server read its configuration again",
        CONFIG_DETAILS,
        add_nothing,
        execute_config_reload,
    ),
    (
        "config-rollback",
        "take the last reload of the configuration back",
        CONFIG_ROLLBACK_DETAILS,
        add_nothing,
        execute_config_rollback,
    ),
)
