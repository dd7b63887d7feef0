"""Numbers in order with sums before each, against a sorted list."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.core import ranks
from orchqueue.core.ranks import Ranks, Work


def naive(numbers: dict[int, tuple[int, int]], below: int) -> Work:
    """Sum up the slow way."""
    before = [amounts for number, amounts in numbers.items() if number < below]
    return Work(len(before), sum(tokens for tokens, _ in before), sum(prompts for _, prompts in before))


@pytest.mark.req("ORCH-3005")
@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.integers(0, 9)), min_size=40, max_size=120),
    block=st.sampled_from([2, 3, 8, 512]),
)
def test_ranks_and_sums_are_those_of_a_sorted_list(steps: list[tuple[int, int, int]], block: int) -> None:
    """Adding what is not here and removing what is, in any order and block size, keeps order and sums."""
    old, ranks.BLOCK = ranks.BLOCK, block
    try:
        found, model = Ranks(), dict[int, tuple[int, int]]()
        for number, tokens, prompts in steps:
            if number in model:
                del model[number]
                found.remove(number)
            else:
                model[number] = (tokens, prompts)
                found.add(number, tokens, prompts)
            assert list(found) == sorted(model)
            assert len(found) == len(model)
            assert found.total == naive(model, 10**9)
            for below in (0, number, number + 1, 61):
                assert found.ahead(below) == naive(model, below)
            if model:
                assert (found.first, found.last) == (min(model), max(model))
                assert [found.at(index) for index in range(len(model))] == sorted(model)
    finally:
        ranks.BLOCK = old


@pytest.mark.req("ORCH-3005")
def test_long_lines_stay_in_blocks() -> None:
    """Numbers that come in order fill one block after the other; insertions into the middle split what grows too long."""
    line = Ranks()
    for number in range(0, 8 * ranks.BLOCK, 4):
        line.add(number, 1, 2)
    assert [len(block) for block in line._numbers] == [ranks.BLOCK] * 2
    for number in range(ranks.BLOCK + 1):
        line.add(4 * (number // 3) + number % 3 + 1, 1, 2)
    assert max(len(block) for block in line._numbers) <= 2 * ranks.BLOCK
    assert len(line._numbers) == 3
    assert line.ahead(8 * ranks.BLOCK) == Work(3 * ranks.BLOCK + 1, 3 * ranks.BLOCK + 1, 6 * ranks.BLOCK + 2)
    assert list(line) == sorted(line)


def test_a_number_that_is_not_here_cannot_be_removed() -> None:
    """Removing what does not wait is a bug of the caller."""
    line = Ranks()
    line.add(3, 1, 1)
    with pytest.raises(AssertionError, match=r"^2 is not here$"):
        line.remove(2)


def test_there_is_nothing_beyond_the_last() -> None:
    """Asking for a number that is not there is a bug of the caller."""
    with pytest.raises(IndexError, match=r"^there are only 0 numbers$"):
        Ranks().at(0)


@pytest.mark.req("ORCH-3029")
def test_a_part_is_the_average_share_rounded_down() -> None:
    """Two of three tasks cost two thirds; of nothing there is no part."""
    assert Work(3, 10, 5).part(2) == Work(2, 6, 3)
    assert Work().part(2) == Work()
    assert Work(1, 2, 3).plus(Work(4, 5, 6)) == Work(5, 7, 9)
