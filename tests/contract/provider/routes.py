"""What the daemon's routing table holds, compared with what the contract declares."""

from __future__ import annotations

from collections.abc import Iterator

from orchqueue.http.routing import Place, Router
from orchqueue.schema.contract import declared_operations


def declared_routes() -> set[tuple[str, str]]:
    """List (method, path template) of every declared operation."""
    return {(operation.method.upper(), operation.path) for operation in declared_operations()}


def _places(router: Router) -> Iterator[Place]:
    yield from router._fixed.values()
    for places in router._variable.values():
        yield from places


def routes_of(router: Router) -> set[tuple[str, str]]:
    """List (method, path template) of every route that is really answered."""
    return {
        (
            method,
            "/" + "/".join(f"{{{part[6:]}}}" if i in place.variable else part for i, part in enumerate(place.template)),
        )
        for place in _places(router)
        for method in place.routes
    }


def route_faults(router: Router) -> list[str]:
    """Name routes without a declaration, declarations without a route, and routes that stand for another operation."""
    routes, declared = routes_of(router), declared_routes()
    found = [f"{method} {path} is answered and not declared" for method, path in sorted(routes - declared)]
    found += [f"{method} {path} is declared and not answered" for method, path in sorted(declared - routes)]
    for place in _places(router):
        found += [
            f"{method} of {route.operation.path} is answered by {route.operation.id}, a {route.operation.method}"
            for method, route in place.routes.items()
            if route.operation.method.upper() != method
        ]
    return found
