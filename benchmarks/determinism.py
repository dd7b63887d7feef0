"""What makes a real llama.cpp server give other text for the same request, one way after the other.

The engine is asked directly: most of these ways are what a strict replica is never launched or asked as.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import msgspec

from benchmarks.determinism_engine import MODEL, Launch
from benchmarks.figures import RESULTS, Report, machine, print_table, write
from orchqueue.verify.prompts import MAX_TOKENS, PROMPTS, SEEDS, prompt_of

STORY = "The suite's 64 seeds on one real llama.cpp server each way, compared with the way of a strict replica."
REFERENCE = "a strict replica: 1 slot, one request at a time, no prompt cache"
BEGIN, END = "<!-- measured: llama.cpp -->", "<!-- end of measured: llama.cpp -->"
WIDE = Launch(n_batch=2048, n_ubatch=512)
FOUR = Launch(slots=4, cont_batching=True)
FOUR_WIDE = Launch(slots=4, cont_batching=True, n_batch=2048, n_ubatch=512)
FOUR_SHARED = Launch(slots=4, cont_batching=True, kv_unified=True)


class Way(msgspec.Struct, frozen=True):
    """One way to launch the server and to ask it.

    `same_prompt`: every seed gets one prompt. `shuffled`: another order, so that every request has another one before it.
    `canceled`: before each request another one is left in the middle. `allowed`: a strict replica may be launched or asked so,
    and its text has to be the reference's; `keyed`: so it may, but it is of another replica set.
    """

    name: str
    launch: Launch = Launch()
    at_once: int = 1
    cache_prompt: bool = False
    shuffled: bool = False
    same_prompt: bool = False
    cached_between: bool = False
    canceled_between: bool = False
    allowed: bool = False
    keyed: bool = False


WAYS = (
    Way("again, in the same order, another process", allowed=True),
    Way("another order of requests", shuffled=True, allowed=True),
    Way("after a request that was left in its middle", canceled_between=True, shuffled=True, allowed=True),
    Way(
        "after a request of the same prompt that used the prompt cache",
        cached_between=True,
        shuffled=True,
        allowed=True,
    ),
    Way("2 threads instead of 1", Launch(threads=2), shuffled=True, allowed=True),
    Way("context of 2048 tokens instead of 1024", Launch(ctx=2048), shuffled=True, keyed=True),
    Way("n_batch and n_ubatch 16 instead of 8", Launch(n_batch=16, n_ubatch=16), shuffled=True, keyed=True),
    Way("n_batch 2048, n_ubatch 512", WIDE, shuffled=True, keyed=True),
    Way("flash attention on", Launch(flash_attention=True), shuffled=True, keyed=True),
    Way("flash attention off", Launch(flash_attention=False), shuffled=True, keyed=True),
    Way("4 slots, one request at a time", FOUR, shuffled=True),
    Way("4 slots, 4 requests at a time, continuous batching", FOUR, at_once=4, shuffled=True),
    Way("4 slots, 4 at a time, no continuous batching", Launch(slots=4), at_once=4, shuffled=True),
    Way("4 slots, 4 at a time, n_batch 2048, n_ubatch 512", FOUR_WIDE, at_once=4, shuffled=True),
    Way("4 slots, 4 at a time, one shared KV memory", FOUR_SHARED, at_once=4, shuffled=True),
    Way("4 slots, 4 at a time, the same prompt for all", FOUR, at_once=4, same_prompt=True),
    Way("prompt cache on, another prompt before", cache_prompt=True, shuffled=True),
    Way("prompt cache on, the same prompt before", cache_prompt=True, cached_between=True, shuffled=True),
    Way("the same, n_batch 2048, n_ubatch 512", WIDE, cache_prompt=True, cached_between=True, shuffled=True),
)


@contextmanager
def engine(launch: Launch) -> Iterator[str]:
    """Run a server; its URL."""
    command = [sys.executable, "-m", "benchmarks.determinism_engine", msgspec.json.encode(launch).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, f"the engine ended with {process.wait(10)}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


class Asking:
    """Asks one server for the suite's texts."""

    def __init__(self, url: str, way: Way, seeds: Sequence[int], max_tokens: int) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=600)
        self._way = way
        self._max_tokens = max_tokens
        self._order = random.Random(len(way.name)).sample(seeds, len(seeds)) if way.shuffled else list(seeds)
        self._waiting = iter(self._order)
        self.texts: dict[int, str] = {}

    async def all(self) -> dict[int, str]:
        """Ask for every seed, so many at once as the way says."""
        async with self._http:
            await asyncio.gather(*(self._lane() for _ in range(self._way.at_once)))
        return self.texts

    async def _lane(self) -> None:
        way = self._way
        for seed in self._waiting:
            if way.canceled_between:
                await self._leave_in_the_middle(seed)
            if way.cached_between:
                await self._text(seed + 7, prompt_of(seed), 4, cache_prompt=True)
            prompt = PROMPTS[0] if way.same_prompt else prompt_of(seed)
            self.texts[seed] = await self._text(seed, prompt, self._max_tokens, cache_prompt=way.cache_prompt)

    async def _text(self, seed: int, prompt: str, max_tokens: int, *, cache_prompt: bool) -> str:
        answer = await self._http.post("/completion", json=_body(seed, prompt, max_tokens, cache_prompt))
        answer.raise_for_status()
        text: str = answer.json()["content"]
        return text

    async def _leave_in_the_middle(self, seed: int) -> None:
        body = _body(seed + 7, prompt_of(seed + 7), 200, False) | {"stream": True}
        async with self._http.stream("POST", "/completion", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    return


def _body(seed: int, prompt: str, max_tokens: int, cache_prompt: bool) -> dict[str, object]:
    """Ask as the adapter does: profile v1, every other sampler off."""
    return {
        "prompt": prompt,
        "seed": seed,
        "n_predict": max_tokens,
        "ignore_eos": True,
        "cache_prompt": cache_prompt,
        "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
        "temperature": 0.7,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "n_probs": 0,
        "response_fields": ["content"],
    }


def ask(way: Way, seeds: Sequence[int], max_tokens: int) -> dict[int, str]:
    """Launch a server one way and ask it that way."""
    with engine(way.launch) as url:
        return asyncio.run(Asking(url, way, seeds, max_tokens).all())


def measure(quick: bool) -> Report:
    """Count for each way the texts that are those of a strict replica.

    Req: ORCH-4405

    A strict replica is launched and asked for one prompt as well, for the ways that have but one.
    """
    report = Report("determinism", quick)
    seeds, ways = (SEEDS[:3], WAYS[::5]) if quick else (SEEDS, WAYS)
    max_tokens = 8 if quick else MAX_TOKENS
    mixed = ask(Way(REFERENCE), seeds, max_tokens)
    alone = ask(Way(REFERENCE, same_prompt=True), seeds, max_tokens)
    for way in ways:
        wanted = alone if way.same_prompt else mixed
        found = ask(way, seeds, max_tokens)
        same = sum(found[seed] == wanted[seed] for seed in seeds)
        kind = "must be all" if way.allowed else "another replica set" if way.keyed else "never strict"
        report.add(way.name, same, f"of {len(seeds)}", kind)
        print(f"  {way.name}: {same} of {len(seeds)}", flush=True)
    report.detail |= {"engine": f"xllamacpp {version('xllamacpp')}", "model": MODEL, "max_tokens": max_tokens}
    return report


def table(report: Report) -> str:
    """Write the figures as the page's table."""
    told, detail = machine(), report.detail
    command = "python -m benchmarks.determinism --document docs/determinism.md"
    made_on = f"{told['date']}, {told['cores']} cores, {detail['engine']} on the CPU, {detail['model']}"
    lines = [
        f"`{command}`: {made_on}, {detail['max_tokens']} tokens a stream, sampler profile v1.",
        "",
        "| The server is launched or asked so | Streams equal to a strict replica's | And so |",
        "|---|---|---|",
    ]
    meaning = {
        "must be all": "strict replicas may differ in this",
        "another replica set": "strict replicas of one set are equal in this",
        "never strict": "no strict replica is launched or asked so",
    }
    lines += [f"| {one.name} | {one.value:.0f} {one.unit} | {meaning[one.note]} |" for one in report.figures]
    return "\n".join(lines)


def write_document(path: Path, report: Report) -> None:
    """Replace the page's table."""
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{table(report)}\n{END}{after}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.determinism", description=STORY)
    parser.add_argument("--quick", action="store_true", help="3 seeds of 8 tokens, some ways; means little")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--document", type=Path, help="a page whose table is replaced")
    wish = parser.parse_args()
    report = measure(wish.quick)
    print_table(report)
    print(f"  written to {write(report, wish.out)}")
    if wish.document is not None:
        write_document(wish.document, report)


if __name__ == "__main__":
    main()
