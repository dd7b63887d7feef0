"""The ASGI application: from a request to an answer, whatever happens in between.

Req: ORCH-2006, ORCH-2052, ORCH-4020
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Literal

from orchqueue.http.auth import Access
from orchqueue.http.exchange import ConnectionExchange
from orchqueue.http.gateway import Gateway
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.messages import ClientGone, Receive, Request, Response, Scope, Send
from orchqueue.http.problems import AuthFailure, Problem, auth_response, internal, problem_response
from orchqueue.http.routes_control import ControlRoutes
from orchqueue.http.routes_ops import OpsRoutes, RenderMetrics
from orchqueue.http.routes_sessions import SessionRoutes
from orchqueue.http.routes_tasks import TaskRoutes
from orchqueue.http.routes_usage import UsageRoutes
from orchqueue.http.routing import Handler, Router, read_parameters
from orchqueue.http.sse import StreamAnswer
from orchqueue.ports.models import ModelCatalog, NoModels
from orchqueue.ports.telemetry import LogValue

PROBES = ("getLiveness", "getReadiness", "getMetrics")

Log = Callable[[Literal["info", "warning", "error"], str, Mapping[str, LogValue]], None]


class App:
    """Answers every request, with the right status and with our envelope where it is not the hoped-for one.

    Req: ORCH-4079
    """

    def __init__(self, router: Router, access: Access, log: Log) -> None:
        self.router = router
        self._access = access
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun_s = monotonic()
        exchange: ConnectionExchange = scope["extensions"].pop("orchqueue")  # the scope must not hold what holds it
        request = Request(scope, receive, exchange)
        try:
            answer = await self._answer(request)
        except ClientGone:
            self._tell(request, 499, begun_s)
            return
        if isinstance(answer, StreamAnswer):
            await answer.run(send, request.correlation_id)
        else:
            await _send(answer, request, send)
        self._tell(request, answer.status, begun_s)

    def log_refusal(self, status: int, message: str, correlation_id: str, client: tuple[str, int] | None) -> None:
        """Log what was refused before it was a request."""
        host = client[0] if client else ""
        self._log(
            "warning",
            "refused",
            {"correlation_id": correlation_id, "status": status, "reason": message, "client": host},
        )

    async def _answer(self, request: Request) -> Response | StreamAnswer:
        try:
            return await self._handle(request)
        except Problem as problem:
            # A problem that its exchange holds must not hold the frames that hold the exchange.
            return problem_response(problem.with_traceback(None), request.correlation_id)
        except AuthFailure as failure:
            return auth_response(failure, request.correlation_id)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 — a bug must not cost the client its answer
            self._log("error", "internal_error", {"correlation_id": request.correlation_id, "error": _describe(error)})
            return problem_response(internal(), request.correlation_id)

    async def _handle(self, request: Request) -> Response | StreamAnswer:
        """Answer in this order: 1. edge limits; 2. host; 3. route; 4. caller; 5. parameters; 6. the handler."""
        if request.exchange.problem is not None:
            raise request.exchange.problem
        hosts = request.values(b"host")
        if len(hosts) > 1 or (not hosts and request.scope["http_version"] != "1.0"):
            raise Problem(400, "exactly one Host header is required")
        route, path = self.router.find(request.method, request.scope["raw_path"])
        scope = route.operation.scope
        if scope is not None:
            caller = self._access.admit(request, scope)
            request.caller_tenant, request.client_id = caller.tenant, caller.client_id
        read_parameters(route, request, path)
        return await route.handler(request)

    def _tell(self, request: Request, status: int, begun_s: float) -> None:
        fields: dict[str, LogValue] = {
            "correlation_id": request.correlation_id,
            "tenant_id": request.caller_tenant or None,
            "client_id": request.client_id or None,
            "method": request.method,
            "path": str(request.scope["raw_path"][:256], "latin-1"),
            "status": status,
            "duration_ms": int((monotonic() - begun_s) * 1000),
        }
        task_id = request.params.get("/path/task_id")
        if task_id is not None:
            fields["job_id"] = task_id
        self._log("info", "request", fields)


async def _send(answer: Response, request: Request, send: Send) -> None:
    headers = answer.all_headers(request.correlation_id)
    if request.exchange.must_close:
        headers.append((b"connection", b"close"))
    transport = request.exchange.transport
    transport.hold()
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})
    finally:
        transport.release()


def _describe(error: Exception) -> str:
    """Name an error and where it came from; its text may hold what a client sent, so it stays out of the log."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{type(error).__name__} at {where}"


def build_app(
    gateway: Gateway, access: Access, limits: EdgeLimits, render_metrics: RenderMetrics, log: Log,
    catalog: ModelCatalog | None = None,
) -> App:  # fmt: skip
    """Join the contract's operations to their handlers."""
    tasks, sessions = TaskRoutes(gateway, limits), SessionRoutes(gateway)
    usage = UsageRoutes(gateway)
    control, ops = ControlRoutes(gateway, limits, catalog or NoModels()), OpsRoutes(gateway, render_metrics)
    handlers: dict[str, Handler] = {
        "createTask": tasks.create,
        "listTasks": tasks.list,
        "getTask": tasks.look,
        "streamTask": tasks.stream,
        "cancelTask": tasks.cancel,
        "explainTask": tasks.explain,
        "getUsage": usage.look,
        "getSession": sessions.look,
        "deleteSession": sessions.forget,
        "listPools": control.pools,
        "getPoolHealth": control.pool_health,
        "drainPool": control.drain,
        "reloadPool": control.reload,
        "rollbackPool": control.rollback,
        "listReplicaSets": control.replica_sets,
        "getCapabilities": control.capabilities,
        "listModels": control.models,
        "reloadConfig": control.reload_config,
        "rollbackConfig": control.rollback_config,
        "getMetrics": ops.metrics,
        "getLiveness": ops.alive,
        "getReadiness": ops.ready,
    }
    handlers = {name: act if name in PROBES else _once_recovered(gateway, act) for name, act in handlers.items()}
    return App(Router(handlers), access, log)


def _once_recovered(gateway: Gateway, handler: Handler) -> Handler:
    """Answer 503 until recovery is over: before that a task that is not found may have been accepted all the same.

    Req: ORCH-4377
    """

    async def answer(request: Request) -> Response | StreamAnswer:
        pending = gateway.recovering()
        if pending:
            text = f"the daemon has just started and is {pending}; try again soon"
            raise Problem(503, text, code="POOL_UNREADY", retriable=True, retry_after_ms=1_000)
        return await handler(request)

    return answer
