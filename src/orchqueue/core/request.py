"""What a client asked for, with every default filled in."""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import msgspec

from orchqueue.core.ids import TaskId

Priority = Literal["interactive", "batch"]
Determinism = Literal["strict", "best_effort"]
Workload = Literal["completion", "embedding", "rerank"]
FinishReason = Literal["stop", "length", "canceled"]

SEED_MAX = 2**31 - 1


class Message(msgspec.Struct, frozen=True, gc=False):
    """One chat turn."""

    role: str
    content: str


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Explicit overrides of the sampler profile; None leaves the profile's value.

    Shape: `json_schema` is JSON text.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool | None = None
    json_schema: str | None = None
    grammar: str | None = None


class PlacementWish(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Where the client wants the task to run.

    Req: ORCH-4162
    """

    mode: Literal["auto", "prefer", "pin"] = "auto"
    pool_ids: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()

    def allows(self, pool_id: str) -> bool:
        """Tell whether the task may run in a pool.

        >>> wish = PlacementWish("pin", ("a", "b"), avoid=("b",))
        >>> wish.allows("a"), wish.allows("b"), wish.allows("c")
        (True, False, False)
        """
        return pool_id not in self.avoid and (self.mode != "pin" or pool_id in self.pool_ids)


class TaskSpec(msgspec.Struct, frozen=True, gc=False):
    """A task request: decoded known fields with defaults filled in.

    Exactly one of `prompt`, `messages`, `inputs` is set. `seed` is filled by `with_seed` before the core sees it.

    Units: `deadline_ms` from admission; `ctx`, `max_tokens`, `expected_tokens` in tokens.
    Req: ORCH-2001
    """

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    inputs: tuple[str, ...] | None = None
    workload: Workload = "completion"
    session_id: str | None = None
    model_ref: str | None = None
    engine: str | None = None
    ctx: int | None = None
    priority: Priority = "interactive"
    seed: int | None = None
    determinism: Determinism | None = None
    sampler_profile_version: str | None = None
    sampling: Sampling = Sampling()
    max_tokens: int = 256
    deadline_ms: int | None = None
    expected_tokens: int | None = None
    kv_hint: Literal["reuse", "cold"] = "reuse"
    on_disconnect: Literal["cancel", "continue"] | None = None
    placement: PlacementWish = PlacementWish()

    @property
    def prompt_bytes(self) -> int:
        """Count the UTF-8 bytes of everything the engine will have to read, chat template excluded."""
        if self.prompt is not None:
            return len(self.prompt.encode())
        if self.messages is not None:
            return sum(len(m.content.encode()) + len(m.role) for m in self.messages)
        return sum(len(text.encode()) for text in self.inputs or ())

    @property
    def longest_bytes(self) -> int:
        """Count the UTF-8 bytes of the longest of its `inputs` that is read at once: each alone, a document with its query.

        >>> TaskSpec(inputs=("query", "a", "abc"), workload="rerank").longest_bytes
        8
        """
        sizes = [len(text.encode()) for text in self.inputs or ()]
        query_bytes = sizes.pop(0) if self.workload == "rerank" and sizes else 0
        return query_bytes + max(sizes, default=0)

    def as_chat(self) -> TaskSpec:
        """Say a bare prompt as the one message of a chat, so that the model's own template is put around it.

        Req: ORCH-4060
        """
        if self.prompt is None:
            return self
        return msgspec.structs.replace(self, prompt=None, messages=(Message("user", self.prompt),))

    @property
    def cancels_on_disconnect(self) -> bool:
        """Tell whether the task ends when its last reader is gone.

        Req: ORCH-4112
        """
        wish = self.on_disconnect or ("cancel" if self.priority == "interactive" else "continue")
        return wish == "cancel"


def derive_seed(task_id: TaskId) -> int:
    """Derive the seed of a task that named none, so that the same task always has the same one.

    Shape: 1 … 2^31−1.
    Req: ORCH-3046

    >>> derive_seed(TaskId("00000000-0000-4000-8000-000000000000"))
    389097760
    """
    first = int.from_bytes(sha256(task_id.lower().encode()).digest()[:8], "big")
    return first % SEED_MAX + 1


def with_seed(spec: TaskSpec, task_id: TaskId) -> TaskSpec:
    """Fill in the seed that the client left out."""
    if spec.seed is not None:
        return spec
    return msgspec.structs.replace(spec, seed=derive_seed(task_id))


def canonical_digest(spec: TaskSpec) -> str:
    """Digest the canonical body; equal digests mean the same request.

    Shape: sha256 hex.
    Req: ORCH-4066
    """
    return sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()


def params_digest(spec: TaskSpec, profile: str) -> str:
    """Digest what decides the output besides prompt, engine and model; it stands in the receipt.

    Shape: sha256 hex.
    Req: ORCH-4098
    """
    params = (profile, spec.seed, spec.max_tokens, spec.sampling, spec.workload)
    return sha256(msgspec.json.encode(params, order="sorted")).hexdigest()
