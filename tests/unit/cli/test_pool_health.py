"""What `orchq pools POOL` tells beside the usual."""

from __future__ import annotations

import pytest

from tests.unit.cli.test_commands import HEALTH, against
from tests.unit.client.scripted_server import json_reply


@pytest.mark.req("ORCH-4400")
async def test_a_pool_says_why_it_is_not_strict() -> None:
    """The self-test's words stand under the replicas that it disproved."""
    note = "the server does not show its slots, so an abort cannot be confirmed"
    replica = {
        "replica_id": "default-0",
        "state": "ready",
        "slots_total": 1,
        "slots_free": 1,
        "restarts": 0,
        "last_error": None,
    }
    replicas = [replica | {"strict_proven": False, "selftest_note": note}]
    shown, _ = await against(json_reply(200, HEALTH | {"replicas": replicas}), "pools", "default")
    assert f"default-0 takes no strict tasks: {note}" in shown.out


@pytest.mark.req("ORCH-4335")
async def test_a_pool_shows_what_it_tries() -> None:
    """Which model, where, by which share, and how it goes."""
    counts = {"starts": 41, "tried": 4, "ended": 3, "errors": 1, "first_tokens": 3, "late": 2}
    tried = {"model": "bundled:n", "percent": 10, "replica_ids": ["default-1"], "state": "trying", **counts}
    shown, _ = await against(json_reply(200, HEALTH | {"canary": tried}), "pools", "default")
    told = " ".join(shown.out.split())
    assert "tries bundled:n tried by 10%, 4 of 41 starts, on default-1" in told
    assert "trial trying: 3 ended, 1 failed, 2 late" in told
