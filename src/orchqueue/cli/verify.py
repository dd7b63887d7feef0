"""`orchq verify`: see for yourself that a deployment keeps its promises; one subcommand for each of them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from orchqueue.cli import verify_determinism, verify_haiku
from orchqueue.cli.context import Context

SUMMARY = "check that a running deployment keeps its promises"
DETAILS = """examples:
  orchq verify determinism
  orchq verify determinism --pool first --pool second --out runs
  orchq verify determinism --help
  orchq verify haiku
  orchq verify haiku --help

Each check goes through tasks and streams as any client does. Status 0 only where all of it was seen to hold, 7 where it
was not."""


class Subject(NamedTuple):
    """One promise that can be verified: its name and what its command takes and does."""

    name: str
    summary: str
    details: str
    add_arguments: Callable[[ArgumentParser], None]
    execute: Callable[[Context, Namespace], Awaitable[int]]


SUBJECTS = (
    Subject(
        "determinism",
        verify_determinism.SUMMARY,
        verify_determinism.DETAILS,
        verify_determinism.add_arguments,
        verify_determinism.execute,
    ),
    Subject(
        "haiku",
        verify_haiku.SUMMARY,
        verify_haiku.DETAILS,
        verify_haiku.add_arguments,
        verify_haiku.execute,
    ),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the subcommands, each with its own help; the shared options may stand before or after them too."""
    from orchqueue.cli.parser import shared_options

    subjects = parser.add_subparsers(title="what to verify", metavar="SUBJECT", dest="subject", required=True)
    for subject in SUBJECTS:
        sub = subjects.add_parser(
            subject.name,
            parents=[shared_options()],
            help=subject.summary,
            description=subject.summary[0].upper() + subject.summary[1:] + ".",
            epilog=subject.details,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        subject.add_arguments(sub)


async def execute(context: Context, args: Namespace) -> int:
    """Verify what was named."""
    subject = next(one for one in SUBJECTS if one.name == args.subject)
    return await subject.execute(context, args)
