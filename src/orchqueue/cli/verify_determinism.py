"""`orchq verify determinism`: the determinism suite against any deployment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context
from orchqueue.cli.exit_codes import ExitCode, UsageError

if TYPE_CHECKING:
    from orchqueue.cli.output import Output
    from orchqueue.client import AsyncClient
    from orchqueue.verify.determinism import Manner, Verification
    from orchqueue.verify.findings import Findings, Report
    from orchqueue.verify.target import Target, Wish

UNDER = ("load", "sessions", "cancels")
LINES_AT_MOST = 8
SEEDS_AT_MOST = 64

SUMMARY = "run the determinism suite: the same request, the same bytes, on every replica"
DETAILS = """examples:
  orchq verify determinism                                every strict replica set, seeds 1001 to 1064
  orchq verify determinism --pool default --seeds 8       a quick look at one pool
  orchq verify determinism --replicas first-0,second-0    these two only
  orchq verify determinism --under load --under cancels   while other tasks run and are canceled
  orchq verify determinism --out runs                     keep every run, and the diffs, as files
  orchq verify determinism --best-effort --pool fast      count how often an unpromised text differs
  orchq verify determinism --json | jq .verdict

Each replica gets one task at a time. Streams are compared byte by byte; where two part, the token, what stood before it and what
came after are shown. Ctrl-C cancels what runs and tells what was compared until then.

exit status: 0 all equal, 2 bad usage, 3 no replica is ready, 4 no such pool or replica, 7 different, not all compared, or the
  pool promises no strict determinism, 130 stopped by Ctrl-C"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what is compared, how, and where the runs are kept."""
    parser.add_argument(
        "--pool", action="append", metavar="ID", help="only this pool; may be repeated (all strict ones)"
    )
    parser.add_argument("--replicas", metavar="IDS", help="only these replicas, as A,B (all of a replica set)")
    parser.add_argument("--seeds", type=int, default=SEEDS_AT_MOST, metavar="N", help="the first N of 1001…1064 (64)")
    parser.add_argument("--max-tokens", type=int, default=40, metavar="N", help="tokens of each stream (40)")
    parser.add_argument(
        "--under", action="append", choices=UNDER, help="what goes on meanwhile; may be repeated (nothing)"
    )
    parser.add_argument("--best-effort", action="store_true", help="ask without the promise and count what differs")
    parser.add_argument("--out", metavar="DIR", help="write each replica's runs and the diffs as files into DIR")
    parser.add_argument(
        "--retry-for", type=float, default=60.0, metavar="S", help="when refused, ask again for up to S seconds (60)"
    )


async def execute(context: Context, args: Namespace) -> int:
    """Verify each replica set that is meant; the worst outcome is the exit status.

    Req: ORCH-4231, ORCH-4402
    """
    from orchqueue.verify.target import CannotVerify, find_targets

    wish, manner = _wish(args), _manner(args)
    async with context.client() as client:
        try:
            targets = await find_targets(client, wish)
        except CannotVerify as error:
            context.output.problem(f"orchq: {error}")
            codes = {"unknown": ExitCode.NOT_FOUND, "not_ready": ExitCode.TRY_LATER}
            return codes.get(error.reason, ExitCode.NOT_VERIFIED)
        return max([await _verify(context, args, client, target, manner) for target in targets])


async def _verify(context: Context, args: Namespace, client: AsyncClient, target: Target, manner: Manner) -> int:
    import asyncio

    from orchqueue.verify.determinism import Verification

    output = context.output
    bar = _Bar(output)
    verification = Verification(client, target, manner, bar.show)
    names = ", ".join(target.replica_ids) or "whichever replicas answer"
    output.note(f"verifying {len(manner.seeds)} seeds in {', '.join(target.pool_ids)} on {names}")
    try:
        await verification.run()
    except asyncio.CancelledError:
        output.note("stopped; the running tasks are canceled. Until then:")
        _conclude(context, args, verification, manner)
        raise
    except Exception:
        output.note("failed. Until then:")
        _conclude(context, args, verification, manner)
        raise
    report = _conclude(context, args, verification, manner)
    if report.verdict == "equal" or (not target.strict and report.verdict == "different"):
        return ExitCode.OK
    return ExitCode.NOT_VERIFIED


def _conclude(context: Context, args: Namespace, verification: Verification, manner: Manner) -> Report:
    """Tell what was found, on standard output, and write the files."""
    from pathlib import Path

    from orchqueue.verify.telling import SHOWN_DIVERGENCES, summary, token_diff, write_files

    output, findings = context.output, verification.findings
    output.clear_status()
    report = findings.report(manner.max_tokens, verification.took_ms, manner.under, verification.notes)
    if args.out is not None:
        try:
            written = write_files(Path(args.out), findings, report)
        except OSError as error:
            raise UsageError(f"--out {args.out}: {error.strerror or error}") from error
        output.note(f"written: {', '.join(map(str, written))}")
    if context.as_json:
        output.record(report)
        return report
    for found in report.divergences[:SHOWN_DIVERGENCES]:
        output.line(token_diff(found) + "\n")
    left = len(report.divergences) - SHOWN_DIVERGENCES
    if left > 0:
        output.line(f"… and {left} more differences; --out DIR writes them all\n")
    for line in summary(report):
        output.line(line)
    return report


class _Bar:
    """Shows how far it is: a bar on a terminal, else a line now and then."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._told = 0

    def show(self, findings: Findings) -> None:
        """Show it where that is news."""
        from orchqueue.verify.telling import progress_bar

        share = LINES_AT_MOST * findings.done_runs // max(1, findings.wanted_runs)
        if self._output.err_is_tty or share > self._told:
            self._told = share
            self._output.status(progress_bar(findings))


def _wish(args: Namespace) -> Wish:
    from orchqueue.verify.target import Wish

    replicas = tuple(name.strip() for name in (args.replicas or "").split(",") if name.strip())
    if args.replicas is not None and not replicas:
        raise UsageError("--replicas names no replica; 'orchq pools POOL' lists them")
    return Wish(tuple(args.pool or ()), tuple(dict.fromkeys(replicas)), not args.best_effort)


def _manner(args: Namespace) -> Manner:
    from orchqueue.verify.determinism import Manner
    from orchqueue.verify.neighbours import CONDITIONS
    from orchqueue.verify.prompts import SEEDS

    if not 1 <= args.seeds <= SEEDS_AT_MOST:
        raise UsageError(f"--seeds takes 1 to {SEEDS_AT_MOST}")
    if not 1 <= args.max_tokens <= 32_768:
        raise UsageError("--max-tokens takes 1 to 32768")
    if not 0 <= args.retry_for <= 86_400:
        raise UsageError("--retry-for takes 0 to 86400 seconds")
    under = tuple(one for one in CONDITIONS if one in (args.under or ()))
    return Manner(SEEDS[: args.seeds], args.max_tokens, under, round(args.retry_for * 1000))
