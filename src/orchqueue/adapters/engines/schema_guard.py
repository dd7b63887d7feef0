"""Whether an engine kept to a JSON schema.

llama.cpp logs a schema that it cannot compile and then decodes without any: nothing in its answer tells. So we refuse what is no
schema before we send it, and look at the whole text at the end.
"""

from __future__ import annotations

from typing import NoReturn

import jsonschema_rs
import msgspec

from orchqueue.adapters.engines.sampling import UnservableError
from orchqueue.core.request import Sampling


def _refuse_reference(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is outside of the schema, and nothing is fetched")


class SchemaGuard:
    """Watches one attempt's text.

    Req: ORCH-4064
    """

    def __init__(self, schema: str) -> None:
        """Compile the schema.

        Errors: UnservableError when it is none.
        """
        try:
            self._validator = jsonschema_rs.validator_for(schema, retriever=_refuse_reference)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise UnservableError(f"json_schema: {str(error).partition(chr(10))[0][:300]}") from error
        self._texts: list[str] = []

    def take(self, text: str) -> None:
        """Keep a piece of the text."""
        self._texts.append(text)

    def judge(self) -> str:
        """Say what is wrong with the whole text, nothing when it is right."""
        try:
            value = msgspec.json.decode("".join(self._texts))
        except msgspec.DecodeError:
            return "the engine could not enforce this json_schema: its text is not JSON"
        if not self._validator.is_valid(value):
            return "the engine could not enforce this json_schema: its JSON does not match"
        return ""


def guard_of(sampling: Sampling) -> SchemaGuard | None:
    """Make a guard where the task has a schema.

    Errors: UnservableError.
    """
    return None if sampling.json_schema is None else SchemaGuard(sampling.json_schema)
