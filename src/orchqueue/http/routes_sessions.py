"""Sessions: look, forget."""

from __future__ import annotations

from orchqueue.core.ids import SessionKey
from orchqueue.http.gateway import Gateway
from orchqueue.http.messages import Request, Response
from orchqueue.http.problems import not_found, problem_of
from orchqueue.http.views import encode, session_info


class SessionRoutes:
    """Handlers of `/v1/sessions`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def look(self, request: Request) -> Response:
        """Tell how a session stands; never make one.

        Req: ORCH-2004
        """
        key = _key(request)
        picture = await self._gateway.session(key)
        if picture is None:
            raise not_found("/path/session_id", f"no session {key[1]} is known; it never began or its life is over")
        return Response(200, encode(session_info(picture)))

    async def forget(self, request: Request) -> Response:
        """Forget a session, known or not.

        Req: ORCH-2005
        """
        refusal = await self._gateway.delete_session(_key(request))
        if refusal is not None:
            raise problem_of(refusal)
        return Response(204)


def _key(request: Request) -> SessionKey:
    return request.caller_tenant, request.param("/path/session_id").lower()
