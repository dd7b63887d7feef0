"""What a new file changes now, and what waits for a restart."""

import msgspec
import pytest

from orchqueue.config.changes import merge
from orchqueue.config.loader import embedded_text, parse
from orchqueue.config.types import Config


def read(text: str) -> Config:
    """Read a configuration from text."""
    return parse(text.encode(), "test", "/")


@pytest.mark.req("ORCH-4205", "ORCH-4206")
def test_policies_change_live_and_structure_waits() -> None:
    """Queue and timeouts are taken over, replicas and port are named as waiting, and the rest stays as it was."""
    old = read(embedded_text())
    new = read(
        embedded_text()
        .replace("capacity: 256", "capacity: 9")
        .replace("replicas: 2", "replicas: 3")
        .replace("wall_ms: 300000", "wall_ms: 1234")
        + "server: {port: 9999}\nsessions: {max_turns: 3}\ntenants: [{id: a, quotas: {kv_mb: 3}}]\n"
    )
    changes = merge(old, new)
    assert changes.applied == (
        "/pools/0/queue/capacity",
        "/pools/0/timeouts/wall_ms",
        "/sessions/max_turns",
        "/tenants",
    )
    assert changes.needs_restart == ("/pools/0/replicas", "/server/port")
    assert changes.config.pools[0].queue.capacity == 9
    assert changes.config.pools[0].replicas == 2
    assert changes.config.server.port == old.server.port


@pytest.mark.req("ORCH-4206")
def test_added_pool_waits_for_a_restart() -> None:
    """A pool that is new or gone is not taken over, while the others' policies are."""
    old = read(embedded_text())
    more = (*old.pools, msgspec.structs.replace(old.pools[0], id="other"))
    changes = merge(old, msgspec.structs.replace(old, pools=more))
    assert changes.config == old
    assert changes.needs_restart == ("/pools",)


@pytest.mark.req("ORCH-4206")
def test_same_file_changes_nothing() -> None:
    """Reading the same file again applies nothing and leaves nothing open."""
    config = read(embedded_text())
    assert merge(config, config) == merge(config, read(embedded_text()))
    assert merge(config, config).applied == merge(config, config).needs_restart == ()
