"""Usage: what the caller's tenant used."""

from __future__ import annotations

from orchqueue.core.outcome import Fault
from orchqueue.core.usage import DAY_MS
from orchqueue.http.days import day_name, day_number
from orchqueue.http.gateway import Gateway
from orchqueue.http.messages import Request, Response
from orchqueue.http.problems import invalid
from orchqueue.http.views import encode
from orchqueue.http.views_insight import usage

DAYS_UNASKED = 30


class UsageRoutes:
    """Handler of `/v1/usage`.

    Req: ORCH-4004, ORCH-4305
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def look(self, request: Request) -> Response:
        """Tell a tenant its own usage and limits."""
        from_day, to_day = self._days(request)
        picture = await self._gateway.usage(request.caller_tenant, from_day, to_day)
        limits = await self._gateway.quotas(request.caller_tenant, request.client_id)
        return Response(200, encode(usage(picture, limits)))

    def _days(self, request: Request) -> tuple[int, int]:
        """Read the days asked for.

        Errors: Problem 400 with every fault.
        """
        faults: list[Fault] = []

        def read(name: str, unasked: int) -> int:
            text = request.params.get(f"/query/{name}")
            day = unasked if text is None else day_number(str(text))
            if day is None:
                faults.append(Fault(f"/query/{name}", "there is no such day since 1970-01-01"))
            return unasked if day is None else day

        to_day = read("to_day", self._gateway.now_ms() // DAY_MS)
        from_day = read("from_day", max(0, to_day - DAYS_UNASKED))
        if from_day > to_day and not faults:
            faults.append(Fault("/query/from_day", f"must not be after to_day, which is {day_name(to_day)}"))
        if faults:
            raise invalid(faults)
        return from_day, to_day
