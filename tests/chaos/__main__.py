"""`python -m tests.chaos`: kill everything for a while, and see every promise kept.

Ctrl-C ends the storm, not the verdict: what was promised by then is judged and reported. A second one ends at once.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
from pathlib import Path

from tests.chaos.report import command, figures_of, keep_evidence, tell, write_document, write_json
from tests.chaos.storm import Verdict, Wish, run

ROOT = Path(__file__).resolve().parents[2]
LONGEST_MINUTES = 22.0
A_MINUTE = 10


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Chaos against real processes.")
    parser.add_argument("--minutes", type=float, default=2.0, help="length of the storm (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="repeats a plan; new every time by default")
    parser.add_argument("--engine", choices=("real", "simulated", "both"), default="simulated")
    parser.add_argument("--kills-daemon", type=int, help=f"kill -9 of the daemon (default: {A_MINUTE} a minute)")
    parser.add_argument("--kills-replicas", type=int, help=f"kill -9 of replicas (default: {A_MINUTE} a minute)")
    parser.add_argument(
        "--limit-minutes", type=float, default=LONGEST_MINUTES, help="ends a storm that a slow machine draws out"
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--document", type=Path, help="write the table into this document")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder also when all is well")
    return parser


def wish_of(arguments: argparse.Namespace) -> Wish:
    """Turn the command line into what is to be done."""
    kills = int(arguments.minutes * A_MINUTE)
    return Wish(
        seed=secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed,
        kind=arguments.engine,
        length_s=arguments.minutes * 60,
        limit_s=max(arguments.limit_minutes, arguments.minutes) * 60,
        kills_daemon=kills if arguments.kills_daemon is None else arguments.kills_daemon,
        kills_replicas=kills if arguments.kills_replicas is None else arguments.kills_replicas,
    )


async def _run(wish: Wish) -> Verdict:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        if stop.is_set():
            loop.remove_signal_handler(signal.SIGINT)
            return
        say("chaos: the storm ends here; Ctrl-C twice more gives up")
        stop.set()

    loop.add_signal_handler(signal.SIGINT, ask)
    return await run(wish, lambda text: say(f"chaos: {text}"), stop)


def main() -> int:
    """Run the command line."""
    arguments = build_parser().parse_args()
    wish = wish_of(arguments)
    say(f"chaos: {command(wish)}")
    verdict = asyncio.run(_run(wish))
    say(tell(verdict))
    if arguments.out:
        write_json(verdict, arguments.out)
    if arguments.document:
        write_document(verdict, arguments.document)
    if verdict.violations:
        keep_evidence(verdict)
    elif not arguments.keep:
        shutil.rmtree(verdict.place)
    return 1 if verdict.violations or not figures_of(verdict).tasks_accepted else 0


if __name__ == "__main__":
    sys.exit(main())
