"""Ask the embedded model for many poems by the command that users have, and keep the figures: `make haiku RUNS=100`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import RESULTS, machine
from orchqueue.cli.verify_haiku import MODES
from tests.daemon import running
from tests.unit.cli.running import ORCHQ

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
KEPT = ("mode", "runs", "passed", "percent", "broken", "median_s", "longest_s")


async def poems(url: str, mode: str, runs: int) -> list[dict[str, object]]:
    """Run the command to its end; its progress goes to this terminal."""
    argv = ("verify", "haiku", "--mode", mode, "--runs", str(runs), "--json")
    environment = {**os.environ, "ORCHQ_URL": url, "REQUIRE_REAL_LLAMA": "1"}
    process = await asyncio.create_subprocess_exec(*ORCHQ, *argv, env=environment, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return [json.loads(line) for line in out.splitlines()]


def kept(path: Path, mode: str, lines: list[dict[str, object]]) -> dict[str, object]:
    """Put this mode's figures beside those of the others, without any poem: none may ever stand in the tree."""
    whole: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.exists() else {}
    *haikus, rate = lines
    told = {name: haikus[-1][name] for name in ("engine_version", "model_digest")}
    whole[mode] = {**{name: rate[name] for name in KEPT}, **told, "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    return rate


def table(whole: dict[str, dict[str, object]]) -> str:
    """Tell the figures of every mode that was measured, in the order in which the modes are told."""
    rows = ["| Mode | Poems | Kept every rule | Took, median | Took, at most | Broken |", "|---|---|---|---|---|---|"]
    for mode, one in ((mode, whole[mode]) for mode in MODES if mode in whole):
        broken = one["broken"]
        assert isinstance(broken, dict)
        told = ", ".join(f"`{rule}` {times}" for rule, times in sorted(broken.items())) or "nothing"
        rows.append(
            f"| `{mode}` | {one['runs']} | {one['passed']} ({one['percent']} %) | {one['median_s']} s | "
            f"{one['longest_s']} s | {told} |"
        )
    return "\n".join([*rows, "", *sorted({_where(one) for one in whole.values()})])


def _where(one: dict[str, object]) -> str:
    machine_of = one["machine"]
    assert isinstance(machine_of, dict)
    engine = f"{one['engine_version']}, model {str(one['model_digest'])[:12]}…"
    return (
        f"Measured on {machine_of['cores']} cores (load {machine_of['load_1min']} at the end), {machine_of['memory_gib']} GiB, "
        f"Python {machine_of['python']}, {engine}.\n"
    )


def put_into(page: Path, told: str) -> None:
    """Put the table into its section of the page; the rest of it is left as it is."""
    text = page.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}\n{told}{after}")


def main() -> int:
    """Run the command line; the status is 0 when at least 99 of 100 poems kept every rule."""
    parser = argparse.ArgumentParser(prog="python -m tests.haiku", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--mode", choices=MODES, default="choice")
    parser.add_argument("--out", type=Path, default=RESULTS / "haiku.json")
    parser.add_argument("--document", type=Path, help="write the table into this page")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as data_dir, running(Path(data_dir)) as daemon:
        daemon.wait_ready()
        lines = asyncio.run(poems(daemon.url, wish.mode, wish.runs))
    if len(lines) < 2:
        return 1
    rate = kept(wish.out, wish.mode, lines)
    told = f"{rate['passed']} of {rate['runs']} poems kept every rule ({rate['percent']} %); written to {wish.out}\n"
    sys.stdout.write(told)
    if wish.document:
        put_into(wish.document, table(json.loads(wish.out.read_text())))
    return 0 if float(str(rate["percent"])) >= 99 else 1


if __name__ == "__main__":
    sys.exit(main())
