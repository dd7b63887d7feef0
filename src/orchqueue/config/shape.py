"""Compare plain values with the types, and find every fault in one go.

Req: ORCH-3030
"""

from __future__ import annotations

import re

from msgspec import inspect

from orchqueue.config.document import Document, Value
from orchqueue.config.problems import Path, Problem, closest, show
from orchqueue.config.types import Config, Pool, TenantSection


class _Bad:
    """Stands for a value that was complained of."""


BAD = _Bad()

# What stands in for a required field that is bad, so that the rest of its pool or tenant can still be judged.
_STAND_INS: dict[str, Value] = {"id": "unnamed", "engine": "llamacpp", "model": "bundled:unknown"}


class Shape:
    """One check of one document. `unknown`, `problems` and `faulty` (their paths) are filled by `check`.

    Req: ORCH-4200
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.problems: list[Problem] = []
        self.unknown: list[Problem] = []
        self.faulty: set[Path] = set()

    def check(self, value: Value) -> Value | _Bad:
        """Check the whole document; give back what fits the types, faulty fields left out, or BAD when nothing does."""
        return self._visit(inspect.type_info(Config), value, ())

    def _visit(self, kind: inspect.Type, value: Value, path: Path) -> Value | _Bad:
        while isinstance(kind, inspect.Metadata):
            kind = kind.type
        match kind:
            case inspect.StructType():
                return self._struct(kind, value, path)
            case inspect.UnionType():
                return self._union(kind, value, path)
            case inspect.VarTupleType():
                if not isinstance(value, list):
                    return self._mistyped(path, "a list", value, "write one item a line, each after '- '")
                items = [self._visit(kind.item_type, item, (*path, index)) for index, item in enumerate(value)]
                return BAD if BAD in items else items  # type: ignore[return-value]
            case inspect.DictType():
                return self._dict(kind, value, path)
            case inspect.LiteralType():
                if value not in kind.values or isinstance(value, bool):
                    known = sorted(str(known) for known in kind.values)
                    message = f"must be one of {', '.join(known)}, got {show(value)}"
                    return self._fault(path, message, closest(value, known))
                return value
            case inspect.StrType():
                return self._string(kind, value, path)
            case inspect.BoolType():
                if not isinstance(value, bool):
                    return self._mistyped(path, "true or false", value, "write true or false without quotes")
                return value
            case inspect.IntType() | inspect.FloatType():
                return self._number(kind, value, path)
        raise AssertionError(f"the configuration uses a type that is not checked: {kind}")

    def _struct(self, kind: inspect.StructType, value: Value, path: Path) -> Value | _Bad:
        if value is None and path not in self._document.unusable and not any(field.required for field in kind.fields):
            return {}
        if not isinstance(value, dict):
            return self._mistyped(path, "a mapping of fields", value, "write 'name: value' lines")
        fields = {field.encode_name: field for field in kind.fields}
        known: dict[str, Value] = {}
        for name, item in value.items():
            if name in fields:
                found = self._visit(fields[name].type, item, (*path, name))
                if not isinstance(found, _Bad):
                    known[name] = found
            else:
                fix = closest(name, fields) or f"known here: {', '.join(fields)}"
                self.unknown.append(self._document.problem((*path, name), "unknown field", fix, at_key=True))
        for name in (field.encode_name for field in kind.fields if field.required):
            if name not in value:
                self._fault((*path, name), "is missing", f"add '{name}: …'")
            if name not in known and kind.cls in (Pool, TenantSection):
                known[name] = _STAND_INS[name]
        return known if all(field.encode_name in known for field in kind.fields if field.required) else BAD

    def _dict(self, kind: inspect.DictType, value: Value, path: Path) -> Value | _Bad:
        if value is None:
            return {}
        if not isinstance(value, dict):
            return self._mistyped(path, "a mapping", value, "write 'name: value' lines")
        known: dict[str, Value] = {}
        for name, item in value.items():
            good_name = self._visit(kind.key_type, name, (*path, name))
            found = self._visit(kind.value_type, item, (*path, name))
            if not isinstance(found, _Bad) and not isinstance(good_name, _Bad):
                known[name] = found
        return known

    def _union(self, kind: inspect.UnionType, value: Value, path: Path) -> Value | _Bad:
        """Judge by the one alternative that fits the value's kind: all our unions are told apart by it."""
        options = [_bare(option) for option in kind.types]
        if value is None and any(isinstance(option, inspect.NoneType) for option in options):
            return None
        rest = [option for option in options if not isinstance(option, inspect.NoneType)]
        if len(rest) == 1:
            return self._visit(rest[0], value, path)
        if not isinstance(value, str | int | float | bool):
            return self._mistyped(path, "a plain value", value, "write text, a number, true or false")
        return value

    def _string(self, kind: inspect.StrType, value: Value, path: Path) -> Value | _Bad:
        if not isinstance(value, str):
            return self._mistyped(path, "text", value, "put it in quotes")
        if kind.min_length is not None and len(value) < kind.min_length:
            return self._fault(path, f"is too short, got {show(value)}", f"at least {kind.min_length} characters")
        if kind.max_length is not None and len(value) > kind.max_length:
            return self._fault(path, f"has {len(value)} characters", f"at most {kind.max_length}")
        if kind.pattern is not None and re.fullmatch(kind.pattern, value) is None:
            fix = f"it must match {kind.pattern}"
            return self._fault(path, f"has a form that is not allowed, got {show(value)}", fix)
        return value

    def _number(self, kind: inspect.IntType | inspect.FloatType, value: Value, path: Path) -> Value | _Bad:
        whole = isinstance(kind, inspect.IntType)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            wanted = "a whole number" if whole else "a number"
            return self._mistyped(path, wanted, value, "write digits without quotes or unit")
        low = kind.ge if kind.ge is not None else kind.gt
        over = (kind.le is not None and value > kind.le) or (kind.lt is not None and value >= kind.lt)
        under = (kind.ge is not None and value < kind.ge) or (kind.gt is not None and value <= kind.gt)
        if over or under:
            bounds = f"more than {low}" if kind.gt is not None else f"at least {low}"
            top = kind.le if kind.le is not None else kind.lt
            return self._fault(path, f"is out of range, got {show(value)}", f"{bounds}, at most {top}")
        return value

    def _mistyped(self, path: Path, wanted: str, value: Value, fix: str) -> _Bad:
        return self._fault(path, f"must be {wanted}, got {show(value)}", fix)

    def _fault(self, path: Path, message: str, fix: str) -> _Bad:
        self.faulty.add(path)
        if path not in self._document.unusable:
            self.problems.append(self._document.problem(path, message, fix))
        return BAD


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind
