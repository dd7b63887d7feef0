"""Verify interactions of a pact against the real daemon: by the Pact verifier, and by the OpenAPI files.

Req: ORCH-4044
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

from pact import Verifier

from tests.contract.provider.answer_law import declared_for, exchange_faults, undeclared_headers
from tests.contract.provider.deployment import Deployments
from tests.contract.provider.provider_states import Params, ProviderStates
from tests.contract.provider.recording_proxy import Answer, RecordingProxy, in_background, running_proxy

Interaction: TypeAlias = dict[str, Any]
PACT_FILE = Path(__file__).parents[3] / "contracts" / "pacts" / "orchq-cli-orchestratord.json"
PROVIDER = "orchestratord"
REQUEST_TIMEOUT_MS = 60_000


def interactions(pact_file: Path = PACT_FILE) -> list[Interaction]:
    """Read a pact's interactions."""
    found = json.loads(pact_file.read_text())["interactions"]
    assert isinstance(found, list)
    return found


class Verification:
    """Verifies one interaction after the other."""

    def __init__(
        self,
        deployments: Deployments,
        proxy: RecordingProxy,
        states: ProviderStates,
        state_server: StateServer,
        scratch: Path,
    ) -> None:
        self.deployments = deployments
        self._proxy = proxy
        self._states = states
        self._state_server = state_server
        self._scratch = scratch

    def faults(self, interaction: Interaction, doctor: Callable[[Answer], Answer] | None = None) -> list[str]:
        """Play an interaction and name all that is wrong with it or with what the daemon answered.

        `doctor` changes the daemon's answer on its way.
        """
        proxy = self._proxy
        proxy.exchanges.clear()
        proxy.doctor = doctor
        self._state_server.problems.clear()
        found = [*document_faults(interaction), *self._pact_faults(interaction), *self._state_server.problems]
        if len(proxy.exchanges) != 1:
            found.append(f"{len(proxy.exchanges)} requests were made instead of one")
        return found + [fault for exchange in proxy.exchanges for fault in exchange_faults(exchange)]

    def _pact_faults(self, interaction: Interaction) -> list[str]:
        document = {
            "consumer": {"name": "orchq-cli"},
            "provider": {"name": PROVIDER},
            "interactions": [interaction],
            "metadata": {"pactSpecification": {"version": "4.0"}},
        }
        source = self._scratch / "one-interaction.json"
        source.write_text(json.dumps(document))
        verifier = (
            Verifier(PROVIDER, host="127.0.0.1")
            .add_transport(url=self._proxy.url)
            .add_source(source)
            .state_handler(self._state_server.url, teardown=True, body=True)
            .set_request_timeout(REQUEST_TIMEOUT_MS)
            .set_coloured_output(enabled=False)
        )
        try:
            verifier.verify()
        except RuntimeError:
            return [f"pact: {verifier.output(strip_ansi=True)}"]
        finally:
            self._states.leave()  # where the verifier gave up before it told us
        return []


def document_faults(interaction: Interaction) -> list[str]:
    """Name what a pact asks or expects beyond the contract, whatever a daemon may answer."""
    request, response = interaction["request"], interaction["response"]
    operation = declared_for(request["method"], request["path"])
    if operation is None:
        return [f"the pact asks {request['method']} {request['path']}, which is not declared"]
    declared = operation.responses.get(str(response["status"]))
    if declared is None:
        return [f"the pact expects status {response['status']} of {operation.id}, which is not declared"]
    return [
        f"the pact expects a header: {fault}" for fault in undeclared_headers(declared, response.get("headers", {}))
    ]


class _StateHandler(BaseHTTPRequestHandler):
    server: StateServer

    def do_POST(self) -> None:
        """Enter or leave a state; whatever goes wrong is told to the verifier."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, said = self.server.change(asked["state"], asked["action"], asked.get("params") or {})
        self.send_response_only(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Say nothing: the verifier tells."""


class StateServer(ThreadingHTTPServer):
    """What the verifier calls to have a state entered or left. `problems` says why that failed."""

    daemon_threads = True

    def __init__(self, states: ProviderStates) -> None:
        super().__init__(("127.0.0.1", 0), _StateHandler)
        self._states = states
        self.problems: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def change(self, name: str, action: str, params: Params) -> tuple[int, bytes]:
        """Enter or leave; give status and body of the answer."""
        try:
            self._states.change(name, action, params)
        except Exception as error:
            problem = f"{action} of {name!r}: {type(error).__name__}: {error}"
            self.problems.append(problem)
            return 422, json.dumps({"error": problem}).encode()  # a 5xx would be tried again for two minutes
        return 200, b"{}"


@contextmanager
def verifying(scratch: Path) -> Iterator[Verification]:
    """Verify for a while; every daemon and engine that it took is gone afterwards."""
    deployments = Deployments(scratch)
    with running_proxy() as proxy:
        states = ProviderStates(deployments, proxy)
        with StateServer(states) as server, in_background(server):
            try:
                yield Verification(deployments, proxy, states, server, scratch)
            finally:
                deployments.end()
