"""Who holds a slot: taken when free, given back once, by its holder."""

import pytest

from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.slots import SlotError, Slots

R, S = ReplicaId("r"), ReplicaId("s")
A, B = AttemptId(1), AttemptId(2)


@pytest.mark.req("ORCH-4164")
def test_a_slot_is_free_again_when_its_holder_gives_it_back() -> None:
    """What is free is what there is less what is held, replica by replica."""
    slots = Slots()
    slots.size(R, 2)
    slots.size(S, 1)
    slots.acquire(R, A)
    slots.acquire(R, B)
    assert (slots.total(R), slots.free(R), slots.free(S)) == (2, 0, 1)
    assert slots.holders(R) == {A, B}
    assert slots.release(A) == R
    assert slots.free(R) == 1
    assert (slots.holders(R), slots.holders(S)) == (frozenset({B}), frozenset())


@pytest.mark.req("ORCH-3009", "ORCH-4164")
def test_what_nobody_may_do_with_a_slot_is_an_error_that_names_the_culprit() -> None:
    """A slot that is not free is not taken, nobody holds two, and only a holder gives back."""
    slots = Slots()
    slots.size(R, 1)
    slots.size(S, 1)
    slots.acquire(R, A)
    with pytest.raises(SlotError, match=r"^r has no free slot for attempt 2$"):
        slots.acquire(R, B)
    with pytest.raises(SlotError, match=r"^attempt 1 already holds a slot of r$"):
        slots.acquire(S, A)
    with pytest.raises(SlotError, match=r"^attempt 2 holds no slot$"):
        slots.release(B)
    assert (slots.holders(R), slots.free(S)) == (frozenset({A}), 1), "what was refused changed nothing"


@pytest.mark.req("ORCH-4164")
def test_a_replica_that_comes_back_smaller_is_never_owed_slots() -> None:
    """Its holders stay until they are closed, and meanwhile nothing is free."""
    slots = Slots()
    slots.size(R, 2)
    slots.acquire(R, A)
    slots.acquire(R, B)
    slots.size(R, 1)
    assert (slots.free(R), slots.holders(R)) == (0, frozenset({A, B}))
    slots.release(A)
    assert slots.free(R) == 0
    slots.release(B)
    assert slots.free(R) == 1


@pytest.mark.req("ORCH-4164")
def test_a_replica_that_was_never_up_has_no_slots() -> None:
    """It counts as nothing instead of failing."""
    slots = Slots()
    assert (slots.total(R), slots.free(R), slots.holders(R)) == (0, 0, frozenset())
    with pytest.raises(SlotError):
        slots.acquire(R, A)
