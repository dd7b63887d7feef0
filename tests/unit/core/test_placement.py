"""Which replica a freed slot belongs to, and what makes pools siblings."""

import pytest

from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from orchqueue.core.placement import free_replicas
from orchqueue.core.settings import PoolSettings
from tests.unit.core.driving import Driver, pool_settings


def ranked(core: Driver) -> list[str]:
    """Name the pool's replicas with a free slot, the first to be taken first."""
    return [replica.replica_id for replica in free_replicas(core.core.state, core.pool())]


def show_free_vram(core: Driver, replica_id: str, free_bytes: int) -> None:
    """Tell what a replica's device has free."""
    figures = (ev.DeviceFigures("cuda:0", vram_free_bytes=free_bytes),)
    core.handle(ev.ReplicaScraped(ReplicaId(replica_id), devices=figures))


@pytest.mark.req("ORCH-3010")
def test_share_of_busy_slots_then_free_memory_then_few_active_then_id_decide() -> None:
    """Each rule counts only where the one before it leaves a tie, and a full replica is no candidate."""
    core = Driver(pool_settings(replicas=3, slots=4, strict=False), up=False)
    core.ready("pr0", slots_total=4)
    core.ready("pr1", slots_total=2)
    core.ready("pr2", slots_total=2)
    assert ranked(core) == ["pr0", "pr1", "pr2"], "all idle: the id decides"
    show_free_vram(core, "pr2", 8 << 30)
    assert ranked(core) == ["pr2", "pr0", "pr1"], "all idle: free memory decides before the id"
    core.submit("a")
    assert ranked(core) == ["pr0", "pr1", "pr2"], "the busy share decides before free memory"
    core.submit("b")
    assert ranked(core) == ["pr1", "pr0", "pr2"], "one of four is less than one of two"
    core.submit("c")
    core.submit("d")
    assert core.starts == ["a", "b", "c", "d"]
    assert ranked(core) == ["pr2", "pr1", "pr0"], (
        "half of two is as much as half of four: memory decides, then fewer active"
    )
    core.submit("e")
    assert ranked(core) == ["pr1", "pr0"], "a full replica takes nothing"


ALIKE = pool_settings("p")


@pytest.mark.req("ORCH-3047", "ORCH-4406")
@pytest.mark.parametrize(
    ("other", "facts"),
    [
        (pool_settings("q", quant="q8_0"), {}),
        (pool_settings("q", ctx=512), {}),
        (pool_settings("q", sampler_profile_version="greedy-v1"), {}),
        (pool_settings("q", device_class="cuda"), {}),
        (pool_settings("q", launch_digest="other flags"), {}),
        (pool_settings("q", engine="vllm"), {}),
        (pool_settings("q", model_ref="n"), {"model_digest": "digest-m"}),
        (pool_settings("q"), {"engine_version": "v2"}),
        (pool_settings("q"), {"model_digest": "other"}),
        (pool_settings("q"), {"known_answer": "other"}),
    ],
)
def test_pools_that_could_differ_in_output_are_no_siblings(other: PoolSettings, facts: dict[str, object]) -> None:
    """Equal pools are siblings; whatever could change a text parts them."""
    core = Driver(ALIKE, other, up=False)
    core.ready("pr0")
    core.ready("qr0", **facts)
    assert core.core.state.siblings(core.pool("p")) == []
    alike = Driver(ALIKE, pool_settings("q"))
    assert alike.core.state.siblings(alike.pool("p")) == [alike.pool("q")]
