from __future__ import annotations

import asyncio
import io
import json
import signal
from pathlib import Path

import pytest

from orchqueue.cli.follow import Absence
from orchqueue.cli.output import Output
from tests.unit.cli.running import on_terminal, orchq, start
from tests.unit.client.restarting_server import address
from tests.unit.client.scripted_server import (
    TASK_ID,
    Asked,
    Reply,
    Script,
    admission,
    end_data,
    envelope,
    frame,
    json_reply,
    position_of,
    resume_bytes,
    serving,
    started_frame,
    stream_reply,
    transcript,
)

TEXTS = ["It", " scatters", " 🙂."]
WHOLE = "".join(TEXTS)


def answering(*stream: bytes, cancel: Reply | None = None, hold: bool = False) -> Script:
    """Accept every task under its own id and stream the given pieces."""

    def script(asked: Asked) -> Reply:
        if asked.target == "/v1/tasks":
            return json_reply(202, admission(str(asked.json["task_id"])))
        if asked.target.endswith("/cancel"):
            return cancel or Reply(204)
        return stream_reply(*stream, ending="silence" if hold else "finish")

    return script


@pytest.mark.req("ORCH-4223")
async def test_run_streams_exactly_the_text_and_tells_the_rest_on_stderr() -> None:
    """Standard output is the model's text, byte for byte; position and receipt go to standard error."""
    async with serving(answering(transcript(TEXTS))) as server:
        ran = await orchq("run", "--seed", "1001", "--stop", "x", "Why?", url=server.url)
    assert (ran.status, ran.out) == (0, WHOLE)
    assert "3 before this one, starts in about 1.8 s" in ran.err
    assert "[stop] 7 tokens in 0.78 s · seed 1001" in ran.err
    assert "verified" in ran.err
    body = server.asked[0].json
    assert body == {"task_id": body["task_id"], "prompt": "Why?", "seed": 1001, "sampling": {"stop": ["x"]}}


@pytest.mark.req("ORCH-4223")
async def test_run_json_prints_one_event_per_line_and_nothing_else() -> None:
    """Every line is JSON with the event's name, its data and where to resume."""
    async with serving(answering(transcript(TEXTS))) as server:
        ran = await orchq("run", "--json", "Why?", url=server.url)
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["event"] for line in lines] == ["admission", "started", "token", "token", "token", "end"]
    assert "".join(line["data"]["t"] for line in lines if line["event"] == "token") == WHOLE
    assert lines[-2]["id"] == position_of(WHOLE)
    assert lines[-1]["data"]["receipt"]["seed"] == 1001
    assert ran.err == ""


async def test_run_survives_a_cut_connection() -> None:
    """A stream that breaks is resumed, and the output has no gap and no duplicate."""

    def script(asked: Asked) -> Reply:
        if asked.method == "POST":
            return answering()(asked)
        if "last-event-id" not in asked.headers:
            return stream_reply(transcript(TEXTS[:1], with_end=False) + b"id: 9", ending="cut")
        return stream_reply(transcript(TEXTS, after_bytes=resume_bytes(asked)))

    async with serving(script) as server:
        ran = await orchq("run", "-q", "Why?", url=server.url)
    assert (ran.status, ran.out, ran.err) == (0, WHOLE, "")


@pytest.mark.req("ORCH-4311")
async def test_run_survives_a_restart_of_the_server_without_a_word() -> None:
    """The server dies in the middle of a text and comes back: standard output is the text, and only the receipt is told."""

    def first_life(asked: Asked) -> Reply:
        if asked.method == "POST":
            return answering()(asked)
        return stream_reply(transcript(TEXTS[:1], with_end=False), ending="silence")

    async with address() as server:
        await server.live(first_life)
        process = await start("run", "Why?", url=server.url)
        assert process.stdout is not None
        head = await process.stdout.readexactly(2)
        # While it stands still it cannot find the absence a long one, however slow we are.
        process.send_signal(signal.SIGSTOP)
        await server.die()
        await server.live(lambda asked: stream_reply(transcript(TEXTS, after_bytes=resume_bytes(asked))))
        process.send_signal(signal.SIGCONT)
        rest, err = await process.communicate()
    assert (process.returncode, (head + rest).decode()) == (0, WHOLE)
    assert [line.partition(" ")[0] for line in err.decode().splitlines()] == ["waiting:", "[stop]"]


@pytest.mark.req("ORCH-4228", "ORCH-4311")
@pytest.mark.parametrize("patience", ["0", "0.1"])
@pytest.mark.parametrize("command", ["submit", "run"])
async def test_a_post_whose_answer_stays_lost_names_its_task(command: str, patience: str) -> None:
    """When patience is over nobody knows whether the task was accepted, so its id is told."""
    async with serving(lambda _: Reply(ending="no_answer")) as server:
        ran = await orchq(command, "--patience", patience, "hi", url=server.url)
    assert ran.status == 6
    assert f"task {server.asked[0].json['task_id']} may have been accepted" in ran.err
    ran = await orchq(command, "hi", url="http://127.0.0.1:9")
    assert ran.status == 6
    assert "may have been accepted" not in ran.err


@pytest.mark.req("ORCH-4311")
def test_only_a_long_absence_is_told_and_told_once() -> None:
    """Short breaks are silent, a long one has one line, and after news the next one counts anew."""
    err = io.StringIO()
    absence = Absence(Output(io.StringIO(), err), 120_000)
    for wait_ms in (50, 250, 500, 1_000):
        absence.on_break(RuntimeError("nobody listens"), wait_ms)
    assert err.getvalue() == ""
    for _ in range(5):
        absence.on_break(RuntimeError("nobody listens"), 2_000)
    assert err.getvalue() == "waiting for the server, 120 s at most (nobody listens)\n"
    absence.over()
    absence.on_break(RuntimeError("nobody listens"), 2_999)
    assert err.getvalue().count("\n") == 1
    absence.on_break(RuntimeError("nobody listens"), 1)
    assert err.getvalue().count("\n") == 2


@pytest.mark.req("ORCH-4224")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cancels_the_task_and_waits_for_the_answer(number: signal.Signals, status: int) -> None:
    """Ctrl-C and TERM post the cancel of this very task before the command ends."""
    async with serving(answering(transcript(TEXTS[:1], with_end=False), hold=True)) as server:
        process = await start("run", "Why?", url=server.url)
        assert process.stdout is not None
        assert await process.stdout.readexactly(2) == b"It"
        process.send_signal(number)
        _, err = await process.communicate()
    task_id = server.asked[0].json["task_id"]
    assert process.returncode == status
    assert server.asked[-1].target == f"/v1/tasks/{task_id}/cancel"
    assert f"canceled task {task_id}" in err.decode()


@pytest.mark.req("ORCH-4028")
async def test_a_cancel_that_fails_is_told() -> None:
    """Ctrl-C still ends with 130, and says that the task may go on."""
    refusal = json_reply(500, envelope("INTERNAL", "our bug", retriable=False))
    async with serving(answering(transcript(TEXTS[:1], with_end=False), cancel=refusal, hold=True)) as server:
        process = await start("run", "Why?", url=server.url)
        assert process.stdout is not None
        await process.stdout.readexactly(2)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert "may go on: our bug" in err.decode()


@pytest.mark.req("ORCH-4028")
async def test_a_stream_that_cannot_be_had_again_says_how_to_go_on() -> None:
    """When patience is used up the status is 6 and the command that continues is printed."""
    gone = json_reply(503, envelope("POOL_UNREADY", "stopping"), {"x-backoff-ms": "1"})
    follow = answering(transcript(TEXTS[:1], with_end=False))

    def script(asked: Asked) -> Reply:
        return gone if "last-event-id" in asked.headers else follow(asked)

    async with serving(script) as server:
        ran = await orchq("run", "--patience", "0.1", "Why?", url=server.url)
    assert (ran.status, ran.out) == (6, "It")
    assert f"go on with: orchq stream --last-event-id {position_of('It')} {server.asked[0].json['task_id']}" in ran.err


@pytest.mark.req("ORCH-4224")
async def test_a_second_signal_leaves_at_once() -> None:
    """When the cancel itself hangs, another Ctrl-C ends the command."""
    asked_to_cancel = asyncio.Event()
    follow = answering(transcript(TEXTS[:1], with_end=False), hold=True)

    def script(asked: Asked) -> Reply:
        if asked.target.endswith("/cancel"):
            asked_to_cancel.set()
            return Reply(pieces=[b"x"], ending="silence")
        return follow(asked)

    async with serving(script) as server:
        process = await start("run", "Why?", url=server.url)
        assert process.stdout is not None
        await process.stdout.readexactly(2)
        process.send_signal(signal.SIGINT)
        await asked_to_cancel.wait()
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130


@pytest.mark.req("ORCH-4224")
async def test_a_reader_that_leaves_the_pipe_cancels_quietly() -> None:
    """`orchq run … | head` ends without a traceback and cancels the task."""
    flood = ["y" * 1000 + "\n"] * 400
    async with serving(answering(transcript(flood, with_end=False), hold=True)) as server:
        process = await start("run", "-q", "Why?", url=server.url)
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.readexactly(10)
        process.stdout._transport.close()  # type: ignore[attr-defined]
        err = await process.stderr.read()
        assert await process.wait() == 141
    assert err == b""
    assert server.asked[-1].target.endswith("/cancel")


@pytest.mark.req("ORCH-4225")
async def test_a_terminal_is_never_steered_by_the_model() -> None:
    """Escape sequences, carriage returns and C1 controls are made visible on a terminal and kept in a pipe."""
    nasty = "\x1b]0;owned\x07 \x1b[2J\r\x9b31m ok\n"
    async with serving(answering(transcript([nasty]))) as server:
        status, shown, err = await on_terminal("run", "Why?", url=server.url)
        piped = await orchq("run", "-q", "Why?", url=server.url)
    assert status == 0
    assert shown == "␛]0;owned␇ ␛[2J␍\\x9b31m ok\r\n"
    assert piped.out == nasty
    assert "\x1b[2K" in err


@pytest.mark.req("ORCH-4225")
async def test_an_error_from_the_server_cannot_steer_the_terminal_either() -> None:
    """What the server says is neutralised like what the model says."""
    refusal = json_reply(400, envelope("INVALID_PARAMS", "bad \x1b[31m", retriable=False))
    async with serving(lambda _: refusal) as server:
        status, _, err = await on_terminal("run", "Why?", url=server.url)
    assert status == 2
    assert "bad ␛[31m" in err


@pytest.mark.req("ORCH-4028")
async def test_a_task_that_fails_or_is_canceled_exits_with_one() -> None:
    """An error event, and an end by someone's wish, are failures of the task."""
    error = envelope("WORKER_RESET", "engine lost", retry_after_ms=1500)
    failed = transcript(TEXTS[:1], with_end=False) + frame("error", error, f"{position_of('It')}:end")
    async with serving(answering(failed)) as server:
        ran = await orchq("run", "Why?", url=server.url)
    assert (ran.status, ran.out) == (1, "It")
    assert "WORKER_RESET: engine lost (worth another try in 1.5 s)" in ran.err
    canceled = started_frame() + frame("end", end_data("", canceled=True), "0:00000000:end")
    async with serving(answering(canceled)) as server:
        assert (await orchq("run", "Why?", url=server.url)).status == 1


async def test_waiting_is_shown_as_it_changes() -> None:
    """Metrics before the start move the waiting line; afterwards they are not shown."""
    body = frame("metrics", {"queue_position": 2, "predicted_start_ms": 900})
    body += frame("metrics", {"queue_position": 2, "predicted_start_ms": 900})
    body += frame("metrics", {"queue_position": 0, "predicted_start_ms": 100}) + transcript(TEXTS[:1], with_end=False)
    body += frame("metrics", {"queue_position": 9}) + frame("end", end_data("It"), f"{position_of('It')}:end")
    async with serving(answering(body)) as server:
        ran = await orchq("run", "Why?", url=server.url)
    waiting = [line for line in ran.err.splitlines() if line.startswith("waiting")]
    assert waiting == [
        "waiting: 3 before this one, starts in about 1.8 s",
        "waiting: 2 before this one, starts in about 0.9 s",
        "waiting: next, starts in about 0.1 s",
    ]


@pytest.mark.req("ORCH-4061")
async def test_every_flag_reaches_its_field(tmp_path: Path) -> None:
    """The options of a task are the fields of the request."""
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "object"}')
    argv = (
        "run --system S --max-tokens 5 --determinism strict --profile greedy-v1 --temperature 0 --top-p 0.5 --top-k 3 "
        "--min-p 0.1 --repeat-penalty 1.1 --ignore-eos --priority batch --deadline-ms 9000 --expected-tokens 4 "
        f"--session {TASK_ID} --kv-hint cold --model bundled:m --engine llamacpp --ctx 512 --pool a --pin --avoid b "
        f"--on-disconnect continue --task-id {TASK_ID.upper()} --json-schema {schema} -"
    )
    async with serving(answering(transcript(TEXTS))) as server:
        ran = await orchq(*argv.split(), url=server.url, stdin="über\n".encode())
    assert ran.status == 0
    assert server.asked[0].json == {
        "task_id": TASK_ID,
        "session_id": TASK_ID,
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "über\n"}],
        "model_ref": "bundled:m",
        "engine": "llamacpp",
        "ctx": 512,
        "priority": "batch",
        "determinism": "strict",
        "sampler_profile_version": "greedy-v1",
        "sampling": {
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "repeat_penalty": 1.1,
            "ignore_eos": True,
            "json_schema": {"type": "object"},
        },
        "max_tokens": 5,
        "deadline_ms": 9000,
        "expected_tokens": 4,
        "kv_hint": "cold",
        "on_disconnect": "continue",
        "placement": {"mode": "pin", "pool_ids": ["a"], "avoid": ["b"]},
    }


async def test_messages_come_from_a_file_or_standard_input(tmp_path: Path) -> None:
    """--messages takes a JSON array and says what is wrong with anything else."""
    chat = [{"role": "user", "content": "hi"}]
    async with serving(answering(transcript(TEXTS))) as server:
        ran = await orchq("run", "--messages", "-", url=server.url, stdin=json.dumps(chat).encode())
        assert ran.status == 0
        bad = await orchq("run", "--messages", "-", url=server.url, stdin=b'[{"role": "boss"}]')
    assert server.asked[0].json["messages"] == chat
    assert bad.status == 2
    assert "not a JSON array of {role, content}" in bad.err
    assert len(server.asked) == 2


@pytest.mark.req("ORCH-4028", "ORCH-4227")
async def test_a_refusal_is_waited_out_only_when_asked() -> None:
    """Without --retry-for a refusal ends with 3 and its numbers; with it the task is posted again."""
    busy = json_reply(
        429, envelope("ADMISSION_REJECT", "the queue is full"), {"retry-after": "3", "x-backoff-ms": "2400"}
    )
    async with serving(lambda _: busy) as server:
        ran = await orchq("submit", "hi", url=server.url)
    assert (ran.status, ran.out) == (3, "")
    assert "the queue is full" in ran.err
    assert "try again in 2.4 s" in ran.err
    replies = iter([json_reply(429, envelope("ADMISSION_REJECT"), {"x-backoff-ms": "2"}), json_reply(202, admission())])
    async with serving(lambda _: next(replies)) as server:
        ran = await orchq("submit", "--retry-for", "60", "hi", url=server.url)
    assert (ran.status, ran.out) == (0, f"{TASK_ID}\n")
    assert server.asked[0].body == server.asked[1].body
