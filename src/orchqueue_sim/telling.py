"""Says in plain words what an event or an effect of the core is: who did what to which task.

Req: ORCH-4345
"""

from __future__ import annotations

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import TaskId, Tenant, task_key
from orchqueue.core.records import Accepted, AnyRecord, Bound, Ended, Followed, Spoken
from orchqueue.core.request import TaskSpec

SHORT = 8
TEXT_AT_MOST = 40


def name_of(key: str) -> str:
    """Name a task by its tenant and the beginning of its id; other names stay as they are.

    >>> name_of("t0/5e28e9a4-0c1b-4a6e-9d7a-0123456789ab"), name_of("p0r1")
    ('t0/5e28e9a4', 'p0r1')
    """
    tenant, slash, task_id = key.rpartition("/")
    return f"{tenant}/{task_id[:SHORT]}" if slash else key


def quote(texts: tuple[str, ...]) -> str:
    """Quote text, cut in the middle where it is long."""
    text = "".join(texts)
    if len(text) > TEXT_AT_MOST:
        text = f"{text[: TEXT_AT_MOST // 2]}…{text[-TEXT_AT_MOST // 2 :]}"
    return f"'{text}'"


def say_event(event: ev.AnyEvent) -> tuple[str, str]:
    """Tell who did what."""
    match event:
        case ev.TaskSubmitted():
            return "client", f"asks for {_task(event.tenant, event.task_id)}: {_wish(event.spec)}"
        case ev.CancelRequested():
            return "client", f"cancels {name_of(event.key)}"
        case ev.ReaderAttached():
            return "client", f"begins to read {name_of(event.key)}; readers: {event.readers}"
        case ev.ReaderDetached():
            return "client", f"reads {name_of(event.key)} no more; readers: {event.readers}"
        case ev.SessionDeleteRequested():
            return "client", f"ends session {'/'.join(event.session)}"
        case ev.PromptCounted():
            found = "cannot be counted in time" if event.tokens is None else f"has {event.tokens} tokens"
            return "engine", f"the prompt of {name_of(event.key)} {found}"
        case ev.ChunksArrived():
            return "engine", f"attempt {event.attempt_id} says {quote(event.texts)}"
        case ev.AttemptCompleted():
            return "engine", f"attempt {event.attempt_id} is complete: {event.finish_reason}, {event.tokens_out} tokens"
        case ev.AttemptFailed():
            return "engine", f"attempt {event.attempt_id} failed: {event.failure} ({event.detail})"
        case ev.AttemptClosed():
            return "engine", f"attempt {event.attempt_id} has really ended: its slot is free"
        case ev.TimerFired():
            return "timer", f"{event.key[0]} of {name_of(event.key[1])} is due"
        case _:
            return _say_rare(event)


def _say_rare(event: ev.AnyEvent) -> tuple[str, str]:
    match event:
        case ev.ReplicaReady():
            return "replica", (
                f"{event.replica_id} is up: version {event.facts.engine_version}, {event.facts.slots_total} slots"
            )
        case ev.ReplicaLost():
            return "replica", f"{event.replica_id} is lost: {event.cause} ({event.detail})"
        case ev.ReplicaStopped():
            return "replica", f"{event.replica_id} has stopped"
        case ev.ReplicaHealthy():
            return "replica", f"{event.replica_id} answers its probe"
        case ev.DrainRequested():
            return "operator", f"drains {event.pool_id} within {event.deadline_ms} ms"
        case ev.ReloadRequested():
            share = "" if event.canary_percent == 100 else f" for {event.canary_percent} percent of the starts"
            return "operator", f"wants model {event.new_model_ref} in {event.pool_id}{share}"
        case ev.RollbackRequested():
            return "operator", f"wants the earlier model back in {event.pool_id}"
        case ev.SettingsReplaced():
            rooms = ", ".join(f"{p.pool_id} {p.capacity}" for p in event.settings.pools)
            return "operator", f"changes settings; room now: {rooms}"
        case ev.ModelVerified():
            return "operator", f"model {event.model_ref} for {event.pool_id} is {event.problem or 'good'}"
        case ev.JournalStalled():
            return "journal", f"cannot commit: {event.reason}"
        case ev.JournalHealed():
            return "journal", "commits again"
        case ev.AcceptsWithdrawn():
            return "journal", f"never took {', '.join(map(name_of, event.keys))}: withdrawn"
        case ev.TaskRecovered():
            ran = "had been started" if event.bound else "was waiting"
            return "journal", f"gives back {_task(event.accepted.tenant, event.accepted.task_id)}, which {ran}"
        case ev.TaskRestored():
            accepted, outcome = event.accepted, event.ended.outcome.value
            return "journal", f"gives back {_task(accepted.tenant, accepted.task_id)}, which had ended: {outcome}"
        case _:
            return "daemon", _words(event)


def say_effect(effect: fx.AnyEffect) -> str:
    """Tell what the core wants."""
    match effect:
        case fx.Record():
            return _say_record(effect.record)
        case fx.Accept():
            again = ", known already" if effect.repeated else ""
            return f"answer {effect.reply}: {name_of(effect.key)} is accepted at {effect.queue_position}{again}"
        case fx.Refuse():
            wait = effect.refusal.retry_after_ms
            back = "" if wait is None else f"; come back in {wait} ms"
            return f"answer {effect.reply}: no, {effect.refusal.outcome.value}{back}"
        case fx.Done():
            return f"answer {effect.reply}: done"
        case fx.EmitStarted():
            return f"stream of {name_of(effect.key)}: started on {effect.replica_id}"
        case fx.EmitTokens():
            return f"stream of {name_of(effect.key)}: {quote(effect.texts)}"
        case fx.Finish():
            return f"stream of {name_of(effect.key)}: ends as {effect.ended.outcome.value}"
        case fx.OpenStream():
            return f"stream of {name_of(effect.key)}: opened"
        case fx.Forget():
            return f"stream of {name_of(effect.key)}: forgotten"
        case fx.StartAttempt():
            return f"start attempt {effect.attempt_id} of {name_of(effect.key)} on {effect.replica_id}"
        case fx.AbortAttempt():
            return f"abort attempt {effect.attempt_id}"
        case fx.CountPrompt():
            return f"have {effect.replica_id} count the prompt of {name_of(effect.key)}"
        case fx.StartReplica():
            return f"start {effect.replica_id} with {effect.model_ref}"
        case fx.SetTimer():
            return f"timer: {effect.key[0]} of {name_of(effect.key[1])}"
        case _:
            return _words(effect)


def _say_record(record: AnyRecord) -> str:
    task = _task(record.tenant, record.task_id)
    match record:
        case Accepted():
            return f"journal: {task} accepted in {record.pool_id}"
        case Bound():
            return f"journal: {task} bound to {record.replica_id}, try {record.attempt}"
        case Spoken():
            return f"journal: {task} had said {len(record.text)} characters from byte {record.at_bytes} on"
        case Followed():
            return f"journal: {task} has a reader"
        case Ended():
            return f"journal: {task} ended as {record.outcome.value}"
        case _:
            return f"journal: {task} forgotten"


def _task(tenant: Tenant, task_id: TaskId) -> str:
    return name_of(task_key(tenant, task_id))


def _wish(spec: TaskSpec) -> str:
    parts = [spec.priority, f"at most {spec.max_tokens} tokens", f"prompt of {spec.prompt_bytes} bytes"]
    for name in ("model_ref", "engine", "session_id", "deadline_ms", "determinism", "on_disconnect"):
        value = getattr(spec, name)
        if value is not None:
            parts.append(f"{name} {value}")
    if spec.placement.mode != "auto" or spec.placement.avoid:
        parts.append(f"{spec.placement.mode} {spec.placement.pool_ids} avoid {spec.placement.avoid}")
    return ", ".join(parts)


def _words(what: ev.AnyEvent | fx.AnyEffect) -> str:
    """Say what has no sentence of its own by its name and fields."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(what).__name__).strip()
    fields = ", ".join(name_of(str(getattr(what, name))) for name in what.__struct_fields__)
    return f"{words}: {fields}" if fields else words
