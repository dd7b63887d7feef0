"""The fixed questions of the determinism suite: 64 seeds, prompts of mixed lengths and scripts.

Lengths are mixed on purpose: one prompt alone hides what a batch or a warm cache does to its neighbours.
"""

from __future__ import annotations

SEEDS = range(1001, 1065)
"""All of the suite's seeds. A shorter run takes the first of them."""

MAX_TOKENS = 40
FIRST_TOKENS = 32

PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "Write three short facts about the sea, each on a line of its own, without numbers and in plain words:",
    "def fibonacci(n):",
    "Deux et deux font quatre, et l'été prochain, à la plage, nous",
    "List: apples, pears, 🍒, 🥝, ",
    "A letter to a friend who lives far away and has not written for a year, begun on a rainy evening in late autumn: "
    * 2,
    "Q: Why is the sky blue?\nA:",
    "Жили-были дед да баба, и была у них",
    "1",
    "吾輩は猫である。名前は",
    "| name | age |\n|---|---|\n| Ada | 36 |\n|",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, und",
    '{"city": "Utrecht", "country":',
    "To bring: a rope, two lamps, bread, salt, a map of the coast, dry socks, a knife and a kettle. Then we",
)


def prompt_of(seed: int) -> str:
    """Choose the prompt of a seed.

    >>> prompt_of(1001) == prompt_of(1016), prompt_of(1001) == prompt_of(1002)
    (True, False)
    """
    return PROMPTS[seed % len(PROMPTS)]
