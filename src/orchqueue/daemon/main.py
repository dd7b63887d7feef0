"""`orchestratord`: parse, run one command, map its outcome to an exit status.

Nothing but the parser is imported until a command is known, so that `--help` is immediate.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from orchqueue import __version__
from orchqueue.daemon.exit_codes import ExitCode

_DESCRIPTION = """\
A queue in front of the language-model engines you already run.

Without a configuration file the daemon serves a small real model on this machine's CPU:

  orchestratord serve
  curl -N -H 'Accept: text/event-stream' -d '{"prompt":"Why is the sky blue?"}' localhost:8080/v1/tasks
"""
_EPILOG = """\
Exit status: 0 done or stopped as asked, 1 failed while running, 2 wrong command line or configuration,
3 data directory or journal cannot be used, 4 keys cannot be used, 5 address cannot be listened on,
6 engine does not answer, 7 engine not verified.
"""
_SERVE = """\
Serve until told to stop (SIGTERM or SIGINT; twice ends at once). Accepted tasks that are not finished by then stay in
the journal for the next start.

  orchestratord serve                                  the embedded model at 127.0.0.1:8080
  orchestratord serve --config orchqueue.yaml --port 9000
"""
_CHECK = """\
Read a configuration file as `serve` would, and print every problem with its line, column and path:

  orchestratord check orchqueue.yaml && systemctl reload orchestratord
  orchestratord check orchqueue.yaml --checksums       model files byte for byte, which takes as long as the disk

Model files are looked at as far as that is quick: that they are there, are models and are not cut off.
"""
_CONFIG = """\
Print the configuration in effect, every default filled in, as YAML. Environment values and whatever is named like a
secret are masked. Without --config: the embedded default, which is a good start for a file of your own.
"""
_KEYS = """\
Keys are kept as HMACs only; the key itself is shown once. A running daemon notices changes within a second.

  orchestratord keys create --keys-file keys.json --tenant acme --scope tasks
  orchestratord keys list   --keys-file keys.json
  orchestratord keys rotate --keys-file keys.json ID --grace-s 86400
  orchestratord keys revoke --keys-file keys.json ID

Name the keys file in the configuration: auth.keys_file. The secret that the HMACs are made with lies in the data
directory, so use the one that the daemon uses (--data-dir).
"""
_STUB = """\
Serve the pact: a server without models, state or keys that gives to each request of a client the answer that the contract
shows, streams event by event. It is meant for people who write clients.

  orchestratord stub --port 8080
  orchq --url http://127.0.0.1:8080 run "Why is the sky blue?"
  curl localhost:8080/~
  orchq --url http://127.0.0.1:8080/~/a-task-for-a-full-queue submit "hi"

The list names the interactions; a name in the base URL, as in the last line, chooses one.
A request that fits no interaction is answered 404 with the nearest ones and what is different. See docs/stub.md.
"""
_VERIFY_ENGINE = """\
Run the conformance suite against an engine's server that runs already: streaming, counts, seeds, stop strings, structured
output, aborts that are confirmed, and more. It sends some fifty short requests, one at a time; nothing else should use the server.

  orchestratord verify-engine --engine llamacpp --url http://127.0.0.1:8081
  orchestratord verify-engine --engine tgi --url https://tgi.example.com --api-key-env TGI_KEY
  orchestratord verify-engine --engine triton --url 'http://127.0.0.1:8000/v2/models/ensemble?metrics_port=8002'
  orchestratord verify-engine --list
"""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="orchestratord",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"orchestratord {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = _add(commands, "serve", "serve the API until told to stop", _SERVE)
    serve.add_argument("--config", metavar="FILE", help="configuration; without it the embedded default is served")
    serve.add_argument("--host", metavar="H", help="address to listen on, instead of server.host")
    serve.add_argument(
        "--port", metavar="P", type=_whole(65_535), help="port to listen on, instead of server.port; 0: any"
    )
    _add_data_dir(serve)
    check = _add(commands, "check", "print every problem of a configuration file", _CHECK)
    check.add_argument("file", metavar="FILE")
    check.add_argument("--json", action="store_true", help="print the problems as one JSON array")
    check.add_argument("--checksums", action="store_true", help="read model files whole and compare their checksums")
    config = _add(commands, "config", "print the configuration in effect, secrets masked", _CONFIG)
    config.add_argument("--config", metavar="FILE")
    config.add_argument("--json", action="store_true", help="print JSON instead of YAML")
    _add_keys(commands)
    _add_verify_engine(commands)
    stub = _add(commands, "stub", "serve the contract's examples, to write clients against", _STUB)
    stub.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    stub.add_argument(
        "--port", metavar="P", type=_whole(65_535), default=8080, help="port; 0: any (default: %(default)s)"
    )
    stub.add_argument("--pact", metavar="FILE", help="another pact file than the one that is shipped")
    stub.add_argument(
        "--pace-ms",
        metavar="MS",
        type=_whole(3_600_000, " milliseconds"),
        default=40,
        help="time between two events of a stream (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader went away; nothing is to be said, also not when the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "serve":
            from orchqueue.daemon.serve import serve

            return serve(arguments.config, arguments.host, arguments.port, arguments.data_dir)
        case "check":
            from orchqueue.daemon.check import check

            return check(arguments.file, as_json=arguments.json, checksums=arguments.checksums)
        case "config":
            from orchqueue.daemon.config_command import show_config

            return show_config(arguments.config, as_json=arguments.json)
        case "keys":
            from orchqueue.daemon.keys import run_keys

            return run_keys(arguments)
        case "verify-engine":
            return _verify_engine(arguments)
        case "stub":
            from orchqueue.daemon.stub import stub

            return stub(arguments.pact, arguments.host, arguments.port, arguments.pace_ms)
    return ExitCode.BAD_INPUT


def _verify_engine(arguments: argparse.Namespace) -> int:
    from orchqueue.daemon.verify_engine import Wanted, list_items, verify_engine

    if arguments.list:
        return list_items()
    if not arguments.engine or not arguments.url:
        print("orchestratord: verify-engine needs --engine and --url; --help shows how", file=sys.stderr)
        return ExitCode.BAD_INPUT
    return verify_engine(
        Wanted(
            arguments.engine, arguments.url, arguments.model, arguments.api_key_env, max(1, arguments.slots),
            arguments.workload,
            tuple(arguments.only), arguments.allow_simulated, arguments.json,
        )
    )  # fmt: skip


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def _add(commands: Commands, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    text = "where the journal, the secret and running replicas are kept (default: $XDG_DATA_HOME/orchqueue)"
    parser.add_argument("--data-dir", metavar="D", help=text)


def _add_verify_engine(commands: Commands) -> None:
    verify = _add(commands, "verify-engine", "run the conformance suite against an engine's server", _VERIFY_ENGINE)
    chosen = verify.add_argument_group("the engine")
    chosen.add_argument("--engine", choices=("llamacpp", "vllm", "tgi", "triton"), help="whose API the server speaks")
    chosen.add_argument("--url", metavar="URL", help="its base URL, http://HOST:PORT")
    chosen.add_argument("--model", metavar="REF", default="", help="what it serves, as in the configuration's `model`")
    chosen.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds its key")
    chosen.add_argument(
        "--slots", metavar="N", type=_whole(256), default=1,
        help="tasks at once, for a server that does not tell (default: %(default)s)",
    )  # fmt: skip
    chosen.add_argument(
        "--workload", choices=("completion", "embedding", "rerank"), default="completion",
        help="what it was launched for (default: %(default)s)",
    )  # fmt: skip
    verify.add_argument("--only", metavar="ITEM", action="append", default=[], help="run this item only; repeatable")
    verify.add_argument("--list", action="store_true", help="print the items and leave")
    verify.add_argument("--allow-simulated", action="store_true", help="accept a simulated engine")
    verify.add_argument("--json", action="store_true", help="print the verdicts as one JSON object")


def _add_keys(commands: Commands) -> None:
    keys = _add(commands, "keys", "create, list, rotate and revoke API keys", _KEYS)
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = _add(actions, "create", "make a key and show it once", "Make a key. It is printed once and kept nowhere.")
    create.add_argument("--tenant", required=True, help="who pays: letters, digits, '.', '_' and '-'")
    create.add_argument(
        "--scope",
        action="append",
        choices=("tasks", "control"),
        help="what it may do; may be given twice (default: tasks)",
    )
    rotate = _add(actions, "rotate", "replace a key by a new one", "Make a new key of the same tenant and scopes.")
    rotate.add_argument("id", metavar="ID")
    rotate.add_argument(
        "--grace-s",
        metavar="S",
        type=_whole(31_536_000, " seconds"),
        default=0,
        help="how long the old key stays valid",
    )
    revoke = _add(actions, "revoke", "end a key at once", "End a key. A running daemon refuses it within a second.")
    revoke.add_argument("id", metavar="ID")
    listing = _add(actions, "list", "show all keys", "Show all keys; never the keys themselves, which nobody has.")
    for action in (create, rotate, revoke, listing):
        action.add_argument("--keys-file", metavar="FILE", required=True)
        action.add_argument("--json", action="store_true", help="print JSON")
        _add_data_dir(action)


def _whole(most: int, unit: str = "") -> Callable[[str], int]:
    """Make a reader of whole numbers from 0 to `most` that says so when it is given something else."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {most}{unit}, got {text[:40]!r}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())
