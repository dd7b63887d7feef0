"""Numbers in rising order with what stands before each: how many, and how much work that is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512


class Work(NamedTuple):
    """How many tasks, how many tokens they are expected to decode, and how many their prompts have."""

    tasks: int = 0
    tokens: int = 0
    prompts: int = 0

    def part(self, count: int) -> Work:
        """Give the average share of some of them.

        >>> Work(4, 10, 2).part(2), Work().part(1)
        (Work(tasks=2, tokens=5, prompts=1), Work(tasks=0, tokens=0, prompts=0))
        """
        if not self.tasks:
            return Work()
        return Work(count, self.tokens * count // self.tasks, self.prompts * count // self.tasks)

    def plus(self, other: Work) -> Work:
        """Add up."""
        return Work(self.tasks + other.tasks, self.tokens + other.tokens, self.prompts + other.prompts)

    def minus(self, other: Work) -> Work:
        """Take a part away."""
        return Work(self.tasks - other.tasks, self.tokens - other.tokens, self.prompts - other.prompts)


class Ranks:
    """Numbers kept in order, in blocks, so that neither a long line nor a look into its middle is slow.

    Cost: each call looks at one block and sums over the blocks before it; with 100 000 numbers that is a few microseconds.

    >>> r = Ranks(); r.add(7, 5, 1); r.add(3, 2, 1); r.ahead(7), list(r), r.first, r.last
    (Work(tasks=1, tokens=2, prompts=1), [3, 7], 3, 7)
    """

    __slots__ = ("_lasts", "_numbers", "_prompts", "_sums", "_tokens", "total")

    def __init__(self) -> None:
        self.total = Work()
        self._numbers: list[list[int]] = []
        self._tokens: list[list[int]] = []
        self._prompts: list[list[int]] = []
        self._lasts: list[int] = []
        self._sums: list[Work] = []

    def __len__(self) -> int:
        return self.total.tasks

    def __iter__(self) -> Iterator[int]:
        for numbers in self._numbers:
            yield from numbers

    @property
    def first(self) -> int:
        """Give the smallest number."""
        return self._numbers[0][0]

    @property
    def last(self) -> int:
        """Give the largest number."""
        return self._lasts[-1]

    def add(self, number: int, tokens: int, prompts: int) -> None:
        """Put a number in its place."""
        if not self._lasts:
            self._open(0)
        at = min(bisect_left(self._lasts, number), len(self._lasts) - 1)
        if number > self._lasts[at] and len(self._numbers[at]) >= BLOCK:
            at += 1
            self._open(at)
        numbers = self._numbers[at]
        index = bisect_left(numbers, number)
        numbers.insert(index, number)
        self._tokens[at].insert(index, tokens)
        self._prompts[at].insert(index, prompts)
        self._book(at, Work(1, tokens, prompts))
        if len(numbers) > 2 * BLOCK:
            self._split(at)

    def remove(self, number: int) -> None:
        """Take a number out."""
        at = bisect_left(self._lasts, number)
        index = bisect_left(self._numbers[at], number)
        assert self._numbers[at][index] == number, f"{number} is not here"
        del self._numbers[at][index]
        tokens, prompts = self._tokens[at].pop(index), self._prompts[at].pop(index)
        self._book(at, Work(-1, -tokens, -prompts))
        if not self._numbers[at]:
            for parts in (self._numbers, self._tokens, self._prompts, self._lasts, self._sums):
                del parts[at]

    def ahead(self, number: int) -> Work:
        """Sum up what stands before a number, whether it is here or not."""
        at = bisect_left(self._lasts, number)
        if at == len(self._lasts):
            return self.total
        count = tokens = prompts = 0
        for one in self._sums[:at]:
            count += one[0]
            tokens += one[1]
            prompts += one[2]
        index = bisect_left(self._numbers[at], number)
        return Work(count + index, tokens + sum(self._tokens[at][:index]), prompts + sum(self._prompts[at][:index]))

    def at(self, index: int) -> int:
        """Give the number that has so many before it."""
        for numbers in self._numbers:
            if index < len(numbers):
                return numbers[index]
            index -= len(numbers)
        raise IndexError(f"there are only {self.total.tasks} numbers")

    def _open(self, at: int) -> None:
        self._numbers.insert(at, [])
        self._tokens.insert(at, [])
        self._prompts.insert(at, [])
        self._lasts.insert(at, -1)
        self._sums.insert(at, Work())

    def _book(self, at: int, change: Work) -> None:
        self._sums[at] = self._sums[at].plus(change)
        self.total = self.total.plus(change)
        if self._numbers[at]:
            self._lasts[at] = self._numbers[at][-1]

    def _split(self, at: int) -> None:
        """Halve a block that grew by insertions into its middle."""
        half = len(self._numbers[at]) // 2
        for parts in (self._numbers, self._tokens, self._prompts):
            parts[at : at + 1] = [parts[at][:half], parts[at][half:]]
        self._lasts[at : at + 1] = [part[-1] for part in self._numbers[at : at + 2]]
        self._sums[at : at + 1] = [
            Work(len(self._numbers[i]), sum(self._tokens[i]), sum(self._prompts[i])) for i in (at, at + 1)
        ]
