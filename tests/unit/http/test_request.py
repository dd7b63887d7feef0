"""From a checked body to a task."""

import hashlib

import pytest

from orchqueue.core.request import canonical_digest
from orchqueue.http.request import task_of
from orchqueue.schema.contract import JsonValue

TASK = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"


@pytest.mark.req("ORCH-4066")
@pytest.mark.parametrize(
    "spelled",
    [
        {"prompt": "hi", "max_tokens": 256, "priority": "interactive", "workload": "completion", "kv_hint": "reuse"},
        {"prompt": "hi", "sampling": {"stop": []}, "placement": {"mode": "auto", "pool_ids": [], "avoid": []}},
        {"a_field_of_tomorrow": 1, "prompt": "hi", "task_id": TASK.upper()},
    ],
)
def test_two_spellings_of_one_task_are_one_body(spelled: dict[str, JsonValue]) -> None:
    """What is left out equals its default, and what is unknown does not count."""
    plain: dict[str, JsonValue] = {"task_id": TASK, "prompt": "hi"}
    task_id, spec = task_of({"task_id": TASK} | spelled)
    assert (task_id, canonical_digest(spec)) == (TASK, canonical_digest(task_of(plain)[1]))


@pytest.mark.req("ORCH-4066")
@pytest.mark.parametrize("other", [{"session_id": TASK}, {"seed": 7}, {"max_tokens": 255}, {"sampling": {"top_k": 1}}])
def test_what_differs_in_a_known_field_is_another_body(other: dict[str, JsonValue]) -> None:
    """Session and seed belong to the body like everything else that is known."""
    plain: dict[str, JsonValue] = {"task_id": TASK, "prompt": "hi"}
    assert canonical_digest(task_of(plain | other)[1]) != canonical_digest(task_of(plain)[1])


@pytest.mark.req("ORCH-3046")
@pytest.mark.parametrize("spelled", [TASK, TASK.upper()])
def test_a_seed_left_out_is_derived_from_the_task_id(spelled: str) -> None:
    """It is computed here a second time from the documented rule; a seed that is named stays."""
    first_bytes = hashlib.sha256(TASK.encode()).digest()[:8]
    derived = int.from_bytes(first_bytes, "big") % (2**31 - 1) + 1
    assert task_of({"task_id": spelled, "prompt": "hi"})[1].seed == derived
    assert task_of({"task_id": spelled, "prompt": "hi", "seed": 0})[1].seed == 0
