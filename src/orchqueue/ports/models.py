"""What is known of models here, as a port."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

ModelState = Literal["verifying", "verified", "refused"]


class ModelRecord(msgspec.Struct, frozen=True):
    """One model as its file was last seen. `detail`: how far its checksum has come, or why it is refused; else empty.

    Units: `ctx_tokens` is the context that it was trained for; `verified_at_ms` is when its checksum was computed.
    """

    state: ModelState
    detail: str = ""
    digest: str | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    quantisation: str | None = None
    ctx_tokens: int | None = None
    verified_at_ms: int | None = None


class ModelCatalog(Protocol):
    """Who knows model files."""

    def find(self, model_ref: str) -> ModelRecord | None:
        """Tell of a model; None where its file was not looked at here."""
        ...


class NoModels:
    """A catalog of nothing, where no engine is launched. Implements `ModelCatalog`."""

    def find(self, model_ref: str) -> ModelRecord | None:
        """Give None."""
        del model_ref
        return None
