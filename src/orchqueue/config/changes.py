"""What a new configuration changes, and how much of that can be in force without a restart."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from orchqueue.config.document import Value
from orchqueue.config.types import Config, Pool

LIVE_SECTIONS = ("retention", "sessions", "tenants")
LIVE_POOL_SECTIONS = ("queue", "admission", "timeouts", "supervision", "retry", "canary", "sampler_profile_version")


class Changes(msgspec.Struct, frozen=True):
    """A configuration that can be in force now, and what of the new file is in it.

    Shape: JSON pointers into the file.
    Req: ORCH-4206
    """

    config: Config
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def merge(old: Config, new: Config) -> Changes:
    """Take over from the new file what can change live; everything else stays as it is.

    Req: ORCH-4205
    """
    live = {name: getattr(new, name) for name in LIVE_SECTIONS}
    merged = msgspec.structs.replace(old, pools=_merge_pools(old.pools, new.pools), **live)
    applied = tuple(_differences("", msgspec.to_builtins(old), msgspec.to_builtins(merged)))
    left = tuple(_differences("", msgspec.to_builtins(merged), msgspec.to_builtins(new)))
    return Changes(merged, applied, left)


def _merge_pools(old: tuple[Pool, ...], new: tuple[Pool, ...]) -> tuple[Pool, ...]:
    by_id = {pool.id: pool for pool in new}
    return tuple(_merge_pool(pool, by_id.get(pool.id, pool)) for pool in old)


def _merge_pool(old: Pool, new: Pool) -> Pool:
    return msgspec.structs.replace(old, **{name: getattr(new, name) for name in LIVE_POOL_SECTIONS})


def _differences(pointer: str, old: Value, new: Value) -> Iterator[str]:
    """Point at the smallest parts that differ; a list of another length differs as a whole."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(f"{pointer}/{name}", old.get(name), new.get(name))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{pointer}/{index}", before, after)
    else:
        yield pointer
