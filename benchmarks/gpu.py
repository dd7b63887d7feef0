"""llama.cpp on GPUs through the daemon: 64 seeds on two replicas, byte for byte, and tokens per second.

`python -m benchmarks.gpu --model file:/models/yours.gguf --document docs/performance.md` on a machine with a GPU and a build of
llama.cpp for it. `--cpu` rehearses the same on the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep

import httpx

from benchmarks.figures import RESULTS, Report, machine, print_table, write
from orchqueue.client import AsyncClient, Placement, Sampling, TaskRequest

POOLS = ("first", "second")
BUNDLED = "bundled:smollm2-135m-instruct-q4_1"
READY_WITHIN_S = 900
PROMPT = "Tell the story of a lighthouse keeper who finds a letter in a bottle."
TOKENS = 256
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"


class NotHere(Exception):
    """What this machine cannot do; the text says how far it came."""


def configuration(model: str, devices: list[str], ctx: int) -> str:
    """Write two pools of one replica set, each with a process of its own, on the named devices in turn."""
    pools = []
    for index, pool_id in enumerate(POOLS):
        device = devices[index % len(devices)]
        on_cpu = ", allow_cpu: true, launch: {args: {threads: 1}}" if device == "cpu" else ""
        pools.append(
            f"  - {{id: {pool_id}, engine: llamacpp, model: '{model}', ctx: {ctx}, devices: ['{device}'], slots: 1,"
            f" determinism: strict, timeouts: {{wall_ms: 600000, idle_ms: 60000}}{on_cpu}}}\n"
        )
    return "pools:\n" + "".join(pools)


def wait_ready(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until both pools serve.

    Errors: NotHere with what the pools say where they cannot.
    """
    began_s = perf_counter()
    while perf_counter() - began_s < READY_WITHIN_S:
        if process.poll() is not None:
            raise NotHere("the daemon ended; its log is above")
        told = [httpx.get(f"{url}/v1/pools/{pool_id}/health", timeout=10).json() for pool_id in POOLS]
        if all(one["ready"] for one in told):
            return
        refused = next(
            (one["last_error"] for one in told if one["last_error"] and "verifying" not in one["last_error"]), None
        )
        if refused:
            raise NotHere(refused)
        print(f"\rwaiting for both pools: {perf_counter() - began_s:.0f} s", end="", file=sys.stderr)
        sleep(0.5)
    raise NotHere(f"the pools were not ready within {READY_WITHIN_S} s")


async def decode(client: AsyncClient, pool_id: str, seed: int, tokens: int) -> int:
    """Run one stream to its end and give its tokens."""
    request = TaskRequest(
        prompt=PROMPT, seed=seed, max_tokens=tokens, sampling=Sampling(ignore_eos=True),
        placement=Placement(mode="pin", pool_ids=[pool_id]),
    )  # fmt: skip
    return (await (await client.run(request)).result()).end.tokens_out


async def speeds(url: str, report: Report, tokens: int) -> None:
    """Measure one stream alone, and one on each replica at once."""
    async with AsyncClient(url) as client:
        await decode(client, POOLS[0], 1, 8)
        began_s = perf_counter()
        alone = await decode(client, POOLS[0], 2, tokens)
        report.add("one stream", alone / (perf_counter() - began_s), "tokens/s", "first token included")
        began_s = perf_counter()
        both = await asyncio.gather(*(decode(client, pool_id, 3, tokens) for pool_id in POOLS))
        report.add("two replicas at once", sum(both) / (perf_counter() - began_s), "tokens/s", "together")


def verify(url: str, report: Report, seeds: int) -> None:
    """Run the user's own command: 64 seeds on both replicas.

    Errors: NotHere where they were not equal, after the command has shown how.
    """
    command = [sys.executable, "-m", "orchqueue.cli.main", "--url", url, "verify", "determinism", "--seeds", str(seeds)]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    told = json.loads(done.stdout.splitlines()[-1])
    report.add("seeds byte-exact", told["seeds_equal"], f"of {seeds}")
    if done.returncode != 0:
        subprocess.run(command, check=False)
        raise NotHere(f"the replicas are not deterministic: {told['seeds_equal']} of {seeds} seeds are equal")


def measure(model: str, devices: list[str], ctx: int, *, quick: bool) -> Report:
    """Start the daemon, verify, measure, stop it."""
    report = Report("gpu" if devices != ["cpu"] else "gpu-rehearsal", quick)
    report.detail |= {"model": model, "devices": ", ".join(devices)}
    with tempfile.TemporaryDirectory(prefix="orchqueue-gpu-") as folder:
        config = Path(folder) / "orchqueue.yaml"
        config.write_text(configuration(model, devices, ctx))
        entry = [sys.executable, "-m", "orchqueue.daemon.main", "serve", "--config", str(config), "--port", "0"]
        with (Path(folder) / "daemon.log").open("w") as log:
            process = subprocess.Popen(
                [*entry, "--data-dir", str(Path(folder) / "data")], stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            assert process.stdout is not None
            url = next((word for word in process.stdout.readline().split() if word.startswith("http://")), "")
            if not url:
                raise NotHere((Path(folder) / "daemon.log").read_text())
            wait_ready(url, process)
            verify(url, report, 4 if quick else 64)
            asyncio.run(speeds(url, report, 16 if quick else TOKENS))
        finally:
            process.terminate()
            process.wait(60)
    return report


def as_markdown(report: Report) -> str:
    """Write the figures as a table with their machine."""
    where = machine()
    head = f"{where['date']}, {report.detail['devices']}, {report.detail['model']}: `python -m benchmarks.gpu`."
    rows = [f"| {one.name} | {one.value:g} {one.unit} | {one.note} |" for one in report.figures]
    return "\n".join([head, "", "| What | Figure | |", "|---|---|---|", *rows])


def main() -> int:
    """Run from the command line; 1 says that this machine cannot, or that its replicas differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", default=BUNDLED, help="file:PATH or bundled:NAME (default: the bundled one)")
    parser.add_argument(
        "--device", action="append", help="cuda:0; twice for a replica on each of two (default: cuda:0)"
    )
    parser.add_argument("--ctx", type=int, default=1024, help="tokens of context (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--quick", action="store_true", help="four seeds and a few tokens; the figures mean little")
    parser.add_argument("--document", type=Path, help=f"a page with {BEGIN} and {END}, between which the table is put")
    wish = parser.parse_args()
    devices = ["cpu"] if wish.cpu else wish.device or ["cuda:0"]
    try:
        report = measure(wish.model, devices, wish.ctx, quick=wish.quick)
    except NotHere as error:
        print(f"\nnot measured: {error}", file=sys.stderr)
        return 1
    print_table(report)
    print(f"  written to {write(report, RESULTS)}")
    if wish.document is not None:
        text = wish.document.read_text()
        head, rest = text.split(BEGIN)[0], text.split(END)[1]
        wish.document.write_text(f"{head}{BEGIN}\n{as_markdown(report)}\n{END}{rest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
