"""The command line: one table of commands, one parser built from it.

argparse, because `--help` must come at once: it imports in a tenth of the time of the nicer libraries.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from orchqueue import __version__
from orchqueue.cli import completion, control, models, ops, run, session, stream, submit, tasks, usage, verify
from orchqueue.cli.context import Context

Execute = Callable[[Context, Namespace], Awaitable[int]]

DESCRIPTION = """Post tasks to an OrchQueue server, follow them, steer its pools.

The server is http://127.0.0.1:8080 unless --url or ORCHQ_URL says otherwise. A key, where one is needed, comes from
ORCHQ_API_KEY, --api-key-file or ORCHQ_API_KEY_FILE."""

EXAMPLES = """examples:
  orchq run "Why is the sky blue?"            stream an answer; Ctrl-C cancels it
  id=$(orchq submit "List three rivers:")     post and remember the id
  orchq stream "$id"                          follow it, as often as you like
  orchq pools                                 what serves, how loaded it is
  orchq verify determinism                    see that equal requests give equal bytes

exit status: 0 ok, 1 the task failed, 2 bad usage, 3 try later, 4 not found, 5 not allowed, 6 cannot connect,
  7 not verified, 8 server fault, 130 stopped by Ctrl-C"""


class Command(NamedTuple):
    """One command: its name, how its help looks, what it takes and what it does.

    Req: ORCH-4226
    """

    name: str
    summary: str
    details: str
    add_arguments: Callable[[ArgumentParser], None]
    execute: Execute


COMMANDS: tuple[Command, ...] = (
    Command("run", run.SUMMARY, run.DETAILS, run.add_arguments, run.execute),
    Command("submit", submit.SUMMARY, submit.DETAILS, submit.add_arguments, submit.execute),
    Command("stream", stream.SUMMARY, stream.DETAILS, stream.add_arguments, stream.execute),
    *(Command(*parts) for parts in tasks.COMMANDS),
    *(Command(*parts) for parts in session.COMMANDS),
    *(Command(*parts) for parts in usage.COMMANDS),
    *(Command(*parts) for parts in control.COMMANDS),
    *(Command(*parts) for parts in models.COMMANDS),
    *(Command(*parts) for parts in ops.COMMANDS),
    Command("verify", verify.SUMMARY, verify.DETAILS, verify.add_arguments, verify.execute),
    Command("completion", completion.SUMMARY, completion.DETAILS, completion.add_arguments, completion.execute),
)


def build_parser() -> ArgumentParser:
    """Build the whole parser; the shared options may stand before or after the command.

    Req: ORCH-4282
    """
    shared = shared_options()
    parser = ArgumentParser(
        prog="orchq",
        parents=[shared],
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"orchq {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            parents=[shared],
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=command.details,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(sub)
    return parser


def shared_options() -> ArgumentParser:
    """Make the options that every command takes."""
    shared = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    group = shared.add_argument_group("options of every command")
    group.add_argument("--url", metavar="URL", help="address of the server (ORCHQ_URL)")
    group.add_argument("--api-key-file", metavar="FILE", help="file that holds the key (ORCHQ_API_KEY_FILE)")
    group.add_argument("--api-key", metavar="KEY", help="the key itself; other users can see it in the process list")
    group.add_argument("--ca-file", metavar="FILE", help="certificate authority of the server (ORCHQ_CA_FILE)")
    group.add_argument("--json", action="store_true", help="print JSON, one value per line")
    group.add_argument("-q", "--quiet", action="store_true", help="print no notes on standard error")
    return shared


def command_of(args: Namespace) -> Execute:
    """Find what to execute."""
    return next(command.execute for command in COMMANDS if command.name == args.command)
