"""The options that describe a task, shared by `run` and `submit`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, TypeVar

from orchqueue.cli.context import read_text
from orchqueue.cli.exit_codes import UsageError

if TYPE_CHECKING:
    from orchqueue.client import ReconnectPolicy, RetryPolicy
    from orchqueue.client.types import Message, Placement, Sampling, TaskRequest

T = TypeVar("T")

_SAME_NAME = (
    "session_id",
    "model_ref",
    "engine",
    "ctx",
    "seed",
    "determinism",
    "sampler_profile_version",
    "deadline_ms",
    "expected_tokens",
    "on_disconnect",
    "priority",
    "max_tokens",
    "kv_hint",
    "workload",
)
_SAMPLING_NUMBERS = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")


def add_task_options(parser: ArgumentParser) -> None:
    """Add everything that a task may say."""
    what = parser.add_argument_group("what is asked")
    what.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt; - reads it from standard input")
    what.add_argument("--messages", metavar="FILE", help="a chat as JSON [{role, content}, …] from a file or -")
    what.add_argument("--system", metavar="TEXT", help="a system message; the prompt becomes the user's message")
    what.add_argument("--chat", action="store_true", help="send the prompt as the user's message of a chat")
    what.add_argument("--workload", choices=("completion", "embedding", "rerank"), help="what is wanted (completion)")
    what.add_argument(
        "--input", dest="inputs", action="append", metavar="TEXT",
        help="a text to embed; for rerank first the query, then the documents",
    )  # fmt: skip
    what.add_argument("--max-tokens", type=int, metavar="N", help="cut the output after N tokens (256)")
    what.add_argument("--json-schema", metavar="FILE", help="the output is JSON that fits this schema (FILE or -)")
    what.add_argument("--grammar", metavar="FILE", help="the output fits this grammar (FILE or -)")
    what.add_argument("--stop", action="append", metavar="TEXT", help="end before TEXT; may be repeated")
    _add_sampling(parser)
    _add_steering(parser)


def _add_sampling(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("--seed", type=int, metavar="N", help="0 to 2147483647; left out, derived from the task id")
    group.add_argument("--determinism", choices=("strict", "best_effort"), help="left out, strict where possible")
    group.add_argument(
        "--profile", dest="sampler_profile_version", metavar="NAME", help="sampler profile (v1, greedy-v1, focused-v1)"
    )
    group.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token")
    group.add_argument("--top-p", type=float, metavar="X", help="keep the likeliest tokens up to this share")
    group.add_argument("--top-k", type=int, metavar="N", help="keep the N likeliest tokens")
    group.add_argument("--min-p", type=float, metavar="X", help="drop tokens below this share of the likeliest")
    group.add_argument("--repeat-penalty", type=float, metavar="X", help="above 1 makes repetition less likely")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's own end")


def _add_steering(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("where and when")
    group.add_argument("--priority", choices=("interactive", "batch"), help="class of the queue (interactive)")
    group.add_argument(
        "--deadline-ms", type=int, metavar="MS", help="worthless later than this; a sure miss is refused"
    )
    group.add_argument("--expected-tokens", type=int, metavar="N", help="likely length; improves predictions only")
    group.add_argument(
        "--session", dest="session_id", metavar="UUID", help="prefer the replica that holds this context"
    )
    group.add_argument("--kv-hint", choices=("reuse", "cold"), help="whether the session's context may be reused")
    group.add_argument("--model", dest="model_ref", metavar="REF", help="needed only where several would fit")
    group.add_argument("--engine", metavar="NAME", help="llamacpp, vllm, tgi or triton")
    group.add_argument("--ctx", type=int, metavar="N", help="context that the pool must offer, in tokens")
    group.add_argument("--pool", action="append", metavar="ID", help="prefer this pool; may be repeated")
    group.add_argument("--pin", action="store_true", help="take no other pool than --pool")
    group.add_argument("--avoid", action="append", metavar="ID", help="never this pool; may be repeated")
    group.add_argument("--on-disconnect", choices=("cancel", "continue"), help="when the last reader is gone for 10 s")
    group.add_argument("--task-id", metavar="UUID", help="choose the id; the same request again counts once")
    group.add_argument(
        "--retry-for", type=float, default=0.0, metavar="S", help="when refused, ask again for up to S seconds (0)"
    )


def add_patience(parser: ArgumentParser) -> None:
    """Add how long a server that goes away is waited for."""
    parser.add_argument(
        "--patience", type=float, default=120.0, metavar="S", help="wait for a lost server for up to S seconds (120)"
    )


def reconnect_of(args: Namespace) -> ReconnectPolicy:
    """Make the policy that `--patience` describes."""
    from orchqueue.client import ReconnectPolicy

    return ReconnectPolicy(patience_ms=_whole_ms("--patience", args.patience))


def request_of(args: Namespace) -> TaskRequest:
    """Make the request that the options describe; it always has an id.

    Errors: UsageError when they contradict each other or a file is not what it should be.
    """
    import msgspec

    from orchqueue.client.types import TaskRequest

    fields: dict[str, object] = {name: getattr(args, name) for name in _SAME_NAME if getattr(args, name) is not None}
    fields["task_id"] = _task_id(args.task_id)
    messages = None if args.inputs else _messages(args)
    if args.inputs:
        if args.prompt is not None or args.messages is not None or args.system is not None or args.chat:
            raise UsageError("--input and a PROMPT or a chat exclude each other")
        fields["inputs"] = args.inputs
    elif messages is None:
        fields["prompt"] = _prompt(args)
    else:
        fields["messages"] = messages
    sampling, placement = _sampling(args), _placement(args)
    if sampling is not None:
        fields["sampling"] = sampling
    if placement is not None:
        fields["placement"] = placement
    return msgspec.structs.replace(TaskRequest(), **fields)


def some_id(given: str) -> str:
    """Take an id from the command line; one that is empty is a variable that was never set."""
    if not given:
        raise ArgumentTypeError("the id is empty")
    return given


def retry_of(args: Namespace) -> RetryPolicy:
    """Make the retry policy that `--retry-for` describes."""
    from orchqueue.client import RetryPolicy

    return RetryPolicy(max_wait_ms=_whole_ms("--retry-for", args.retry_for))


def _whole_ms(option: str, seconds: float) -> int:
    if not 0 <= seconds <= 86_400:
        raise UsageError(f"{option} takes 0 to 86400 seconds")
    return round(seconds * 1000)


def _task_id(given: str | None) -> str:
    from uuid import UUID, uuid4

    if given is None:
        return str(uuid4())
    try:
        return str(UUID(given))
    except ValueError:
        raise UsageError(f"--task-id: {given!r} is not a UUID") from None


def _prompt(args: Namespace) -> str:
    prompt: str | None = args.prompt
    if prompt is None:
        raise UsageError("say what to ask: a PROMPT, - to read it from standard input, or --messages FILE")
    if prompt == "-":
        if sys.stdin.isatty():
            print("reading the prompt from the terminal; end it with Ctrl-D", file=sys.stderr)
        prompt = read_text("-")
    if not prompt:
        raise UsageError("the prompt is empty")
    return prompt


def _messages(args: Namespace) -> list[Message] | None:
    from orchqueue.client.types import Message

    if args.messages is None:
        if args.system is None and not args.chat:
            return None
        user = Message(role="user", content=_prompt(args))
        return [user] if args.system is None else [Message(role="system", content=args.system), user]
    if args.prompt is not None:
        raise UsageError("a PROMPT and --messages exclude each other")
    messages = _decode(args.messages, list[Message], "a JSON array of {role, content}")
    return messages if args.system is None else [Message(role="system", content=args.system), *messages]


def _sampling(args: Namespace) -> Sampling | None:
    import msgspec

    from orchqueue.client.types import Sampling

    fields: dict[str, object] = {
        name: getattr(args, name) for name in _SAMPLING_NUMBERS if getattr(args, name) is not None
    }
    if args.stop:
        fields["stop"] = args.stop
    if args.ignore_eos:
        fields["ignore_eos"] = True
    if args.json_schema is not None and args.grammar is not None:
        raise UsageError("--json-schema and --grammar exclude each other")
    if args.json_schema is not None:
        fields["json_schema"] = _decode(args.json_schema, dict[str, object], "a JSON object")
    if args.grammar is not None:
        fields["grammar"] = read_text(args.grammar)
    return msgspec.structs.replace(Sampling(), **fields) if fields else None


def _placement(args: Namespace) -> Placement | None:
    from orchqueue.client.types import Placement

    if args.pin and not args.pool:
        raise UsageError("--pin needs --pool")
    if not args.pool and not args.avoid:
        return None
    pools: list[str] = args.pool or []
    return Placement(
        mode="pin" if args.pin else "prefer" if pools else "auto", pool_ids=pools, avoid=list(args.avoid or [])
    )


def _decode(name: str, kind: type[T], form: str) -> T:
    import msgspec

    try:
        return msgspec.json.decode(read_text(name), type=kind)
    except msgspec.DecodeError as error:
        raise UsageError(f"{name}: not {form}: {error}") from error
