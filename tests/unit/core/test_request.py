"""What a request is made of: its bytes, its seed, its digests."""

import msgspec
import pytest

from orchqueue.core.ids import TaskId, TaskKey, task_id_of, task_key, tenant_of
from orchqueue.core.request import (
    Message,
    PlacementWish,
    Sampling,
    TaskSpec,
    canonical_digest,
    derive_seed,
    params_digest,
    with_seed,
)
from tests.unit.core.driving import TENANT

T = TaskId("00000000-0000-4000-8000-00000000000A")


@pytest.mark.req("ORCH-4148")
@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (TaskSpec(prompt="aé"), 3),
        (TaskSpec(messages=(Message("user", "é"), Message("assistant", "abc"))), 2 + 4 + 3 + 9),
        (TaskSpec(inputs=("é", "abc")), 5),
        (TaskSpec(), 0),
    ],
)
def test_the_bytes_of_a_prompt_are_those_that_the_engine_reads(spec: TaskSpec, size: int) -> None:
    """UTF-8 bytes of every part are counted, the roles of messages among them."""
    assert spec.prompt_bytes == size


@pytest.mark.req("ORCH-4060")
def test_only_a_bare_prompt_becomes_a_chat() -> None:
    """One message of the user replaces it; messages stay as they are."""
    assert TaskSpec(prompt="hi").as_chat() == TaskSpec(messages=(Message("user", "hi"),))
    chat = TaskSpec(messages=(Message("user", "hi"),))
    assert chat.as_chat() is chat


@pytest.mark.req("ORCH-3046")
def test_a_seed_is_derived_where_none_was_named() -> None:
    """It follows from the task's id in either case of its letters, and a seed that was named stays, 0 too."""
    spec = with_seed(TaskSpec(prompt="hi"), T)
    assert spec == TaskSpec(prompt="hi", seed=derive_seed(T))
    assert derive_seed(T) == derive_seed(TaskId(T.lower()))
    assert 1 <= derive_seed(T) < 2**31
    assert with_seed(TaskSpec(prompt="hi", seed=0), T).seed == 0


@pytest.mark.req("ORCH-4066")
def test_equal_requests_have_equal_digests_and_others_have_not() -> None:
    """What was left out equals what was said as its default; every other field counts."""
    assert canonical_digest(TaskSpec(prompt="hi")) == canonical_digest(TaskSpec(prompt="hi", max_tokens=256))
    specs = [
        TaskSpec(prompt="hi"),
        TaskSpec(prompt="ho"),
        TaskSpec(prompt="hi", seed=1),
        TaskSpec(prompt="hi", session_id="s"),
        TaskSpec(prompt="hi", sampling=Sampling(temperature=0.5)),
    ]
    assert len({canonical_digest(spec) for spec in specs}) == len(specs)


@pytest.mark.req("ORCH-4098")
def test_the_digest_of_parameters_covers_what_decides_the_output() -> None:
    """Profile, seed, length, sampling and workload change it; prompt and placement do not."""
    base = TaskSpec(prompt="hi", seed=1)
    same = [msgspec.structs.replace(base, prompt="ho"), msgspec.structs.replace(base, placement=PlacementWish("pin"))]
    assert {params_digest(spec, "v1") for spec in same} == {params_digest(base, "v1")}
    other = [
        msgspec.structs.replace(base, seed=2),
        msgspec.structs.replace(base, max_tokens=1),
        msgspec.structs.replace(base, sampling=Sampling(top_k=1)),
        msgspec.structs.replace(base, workload="embedding"),
    ]
    digests = {params_digest(spec, "v1") for spec in [base, *other]} | {params_digest(base, "greedy-v1")}
    assert len(digests) == len(other) + 2


@pytest.mark.req("ORCH-4067")
def test_a_key_names_tenant_and_task() -> None:
    """Both can be read back from it, whatever the tenant is called."""
    key = task_key(TENANT, T)
    assert (tenant_of(key), task_id_of(key)) == (TENANT, T)
    assert tenant_of(TaskKey("a/b/t")) == "a/b"


@pytest.mark.req("ORCH-4112")
@pytest.mark.parametrize(
    ("wish", "cancels"),
    [
        ({"priority": "interactive"}, True),
        ({"priority": "batch"}, False),
        ({"priority": "batch", "on_disconnect": "cancel"}, True),
        ({"priority": "interactive", "on_disconnect": "continue"}, False),
    ],
)
def test_who_ends_when_nobody_reads(wish: dict[str, object], cancels: bool) -> None:
    """The task's own word comes first, then its class decides."""
    assert msgspec.structs.replace(TaskSpec(prompt="hi"), **wish).cancels_on_disconnect is cancels
