"""From a body to a task: decode, name every fault, fill in every default.

Req: ORCH-2001
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from orchqueue.core.ids import TaskId
from orchqueue.core.outcome import Fault
from orchqueue.core.request import Sampling, TaskSpec, with_seed
from orchqueue.http.messages import BodyTooLong, Request, new_id
from orchqueue.http.negotiation import require_json
from orchqueue.http.problems import body_too_large, invalid
from orchqueue.schema import data
from orchqueue.schema.contract import JsonValue
from orchqueue.schema.validation import decode_json, faults_of

# Above this a body is read by a thread, so that no stream waits for it.
INLINE_BYTES = 128 * 1024


def own_faults(faults: list[data.Fault]) -> list[Fault]:
    """Translate the contract's faults into the core's.

    Req: ORCH-4020
    """
    return [Fault(fault.pointer, fault.message) for fault in faults]


async def read_object(
    request: Request, limit_bytes: int, schema: str, *, optional: bool = False
) -> Mapping[str, JsonValue]:
    """Read a JSON body that fits a schema of the contract. `optional`: an empty body means an empty object.

    Errors: Problem 400, 413, 415; ClientGone.
    """
    require_json(request)
    try:
        body = await request.body(limit_bytes)
    except BodyTooLong:
        raise body_too_large(limit_bytes) from None
    if optional and not body:
        return {}
    if len(body) > INLINE_BYTES:
        value, faults = await asyncio.to_thread(_checked, body, schema)
    else:
        value, faults = _checked(body, schema)
    if faults:
        raise invalid(own_faults(faults))
    assert isinstance(value, dict), f"the contract let something else than an object pass as {schema}"
    return value


def task_of(value: Mapping[str, JsonValue]) -> tuple[TaskId, TaskSpec]:
    """Make the task that a checked body asks for, its seed filled in.

    Ids are spelled in lower case from here on. A JSON schema for the output is passed on as it was written.

    Req: ORCH-4054, ORCH-4055
    """
    given = value.get("task_id")
    task_id = TaskId(given.lower() if isinstance(given, str) else new_id())
    fields: dict[str, object] = dict(value)
    session_id = fields.get("session_id")
    if isinstance(session_id, str):
        fields["session_id"] = session_id.lower()
    sampling = fields.pop("sampling", None)
    spec = msgspec.convert(fields, TaskSpec)
    if spec.workload != "completion":
        # No token is decoded; one stands for the step that makes the result, so that costs and shares have something to count.
        spec = msgspec.structs.replace(spec, max_tokens=1, expected_tokens=None)
    if isinstance(sampling, dict):
        spec = msgspec.structs.replace(spec, sampling=_sampling(sampling))
    return task_id, with_seed(spec, task_id)


def _sampling(value: Mapping[str, JsonValue]) -> Sampling:
    plain = {name: given for name, given in value.items() if name != "json_schema"}
    sampling = msgspec.convert(plain, Sampling)
    if "json_schema" not in value:
        return sampling
    return msgspec.structs.replace(sampling, json_schema=msgspec.json.encode(value["json_schema"]).decode())


def _checked(body: bytes, schema: str) -> tuple[JsonValue, list[data.Fault]]:
    value, faults = decode_json(body)
    return value, faults or faults_of(schema, value)
