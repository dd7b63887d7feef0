"""Which handler answers what: the contract's own operations, each with its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from orchqueue.core.outcome import Fault
from orchqueue.http.messages import Request, Response
from orchqueue.http.problems import Problem, invalid
from orchqueue.http.request import own_faults
from orchqueue.http.sse import StreamAnswer
from orchqueue.schema.contract import DeclaredOperation, declared_operations
from orchqueue.schema.validation import faults_of, parameters_of

Handler: TypeAlias = Callable[[Request], Awaitable[Response | StreamAnswer]]


class Route(msgspec.Struct, frozen=True):
    """One operation and who answers it."""

    operation: DeclaredOperation
    handler: Handler
    header_names: tuple[str, ...]


class Place(msgspec.Struct, frozen=True):
    """One path and its methods. `template` holds a parameter's pointer where a segment varies."""

    template: tuple[str, ...]
    variable: frozenset[int]
    routes: dict[str, Route]


class Router:
    """Finds routes by path and method.

    Req: ORCH-4029
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        """Join handlers to operations by id.

        Errors: ValueError when the contract and the handlers do not name the same operations.
        """
        operations = {operation.id: operation for operation in declared_operations()}
        if operations.keys() != handlers.keys():
            differing = sorted(operations.keys() ^ handlers.keys())
            raise ValueError(f"operations without a handler, or handlers without an operation: {', '.join(differing)}")
        self._fixed: dict[tuple[str, ...], Place] = {}
        self._variable: dict[int, list[Place]] = {}
        for operation in operations.values():
            names = tuple(name[8:] for name in operation.parameters if name.startswith("/header/"))
            _compile_schemas(operation)
            self._place(operation.path).routes[operation.method.upper()] = Route(
                operation, handlers[operation.id], names
            )

    def find(self, method: str, raw_path: bytes) -> tuple[Route, dict[str, str]]:
        """Find who answers, and the path's parameters by pointer.

        Errors: Problem 404 for an unknown path, 405 with `Allow` for a method that it does not know.
        Req: ORCH-4021
        """
        segments = split_path(raw_path)
        place = self._find_place(segments) if segments is not None else None
        if place is None or segments is None:
            raise Problem(404, "there is nothing under this path; the calls are described in the API contract")
        route = place.routes.get(method)
        if route is None:
            allow = ", ".join(sorted(place.routes))
            raise Problem(405, f"{method[:16]} is not known here; use {allow}", allow=allow)
        return route, {place.template[index]: segments[index] for index in place.variable}

    def _find_place(self, segments: tuple[str, ...]) -> Place | None:
        fixed = self._fixed.get(segments)
        if fixed is not None:
            return fixed
        for place in self._variable.get(len(segments), ()):
            if all(i in place.variable or part == segments[i] for i, part in enumerate(place.template)):
                return place
        return None

    def _place(self, path: str) -> Place:
        parts = path[1:].split("/")
        variable = frozenset(index for index, part in enumerate(parts) if part.startswith("{"))
        template = tuple(f"/path/{part[1:-1]}" if i in variable else part for i, part in enumerate(parts))
        known = [self._fixed.get(template), *self._variable.get(len(parts), [])]
        for place in known:
            if place is not None and place.template == template:
                return place
        made = Place(template, variable, {})
        if variable:
            self._variable.setdefault(len(parts), []).append(made)
        else:
            self._fixed[template] = made
        return made


def _compile_schemas(operation: DeclaredOperation) -> None:
    """Have the contract's schemas compiled now, so that no client waits for it."""
    parameters_of(operation.id, {})
    if operation.body is not None:
        faults_of(operation.body, {})


def split_path(raw_path: bytes) -> tuple[str, ...] | None:
    """Split a request's path into decoded segments; None for one with an empty segment.

    Dots, control characters and bytes that are not UTF-8 (told as U+FFFD) match no fixed segment, and no pattern of a
    parameter: what plays tricks with an id is answered like any other id that is none.

    >>> split_path(b"/v1/tasks")
    ('v1', 'tasks')
    >>> split_path(b"/v1//tasks") is None
    True
    """
    if not raw_path.startswith(b"/"):
        return None
    segments = tuple(unquote_to_bytes(raw).decode(errors="replace") for raw in raw_path[1:].split(b"/"))
    return segments if all(segments) else None


def read_parameters(route: Route, request: Request, path: Mapping[str, str]) -> None:
    """Check path, query and header parameters against the contract.

    Errors: Problem 400 with every fault.
    """
    given = dict(path)
    repeated: list[Fault] = []
    for name, value in request.query():
        pointer = f"/query/{name}"
        if pointer in given and pointer in route.operation.parameters:
            repeated.append(Fault(pointer, "must be given only once"))
        given[pointer] = value
    for name in route.header_names:
        values = request.values(name.lower().encode())
        if values and values != [""]:
            given[f"/header/{name}"] = values[0]
            if len(values) > 1 and name != "X-Correlation-Id":
                repeated.append(Fault(f"/header/{name}", "must be given only once"))
    request.params, faults = parameters_of(route.operation.id, given)
    if faults or repeated:
        raise invalid([*own_faults(faults), *repeated])
