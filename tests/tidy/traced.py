"""A small tree whose every link is sound, to plant faults in."""

import json

SPEC = "specs/queue.md"
DATA = "contracts/openapi/data.yaml"
CONTROL = "contracts/openapi/control.yaml"
PACT = "contracts/pacts/cli-daemon.json"
METRICS = "ci/metrics.lint.json"
CODE = "src/orchqueue/core/queue.py"
TEST = "tests/unit/test_queue.py"
INDEX = "requirements/index.yaml"


def interaction(description: str, *ids: str) -> dict[str, object]:
    """Describe an interaction as a pact file does."""
    cited = {"references": {"requirements": dict.fromkeys(ids, "its title")}}
    return {"comments": cited, "description": description, "type": "Synchronous/HTTP"}


def pact(*interactions: dict[str, object]) -> str:
    """Write a pact file."""
    return json.dumps({"interactions": interactions}, indent=2)


SOUND = {
    SPEC: """\
# Queue

The words MUST and MAY are explained freely here.

## Asking

### ORCH-9001 — Posting
MUST · built

A task MUST be posted once; `MAY` in code
is no keyword.

### ORCH-9002 — Listing
SHOULD · planned

Tasks SHOULD NOT be listed twice.

### ORCH-9003-DEPR — Guessing
MUST · retired

This was dropped.
""",
    DATA: """\
paths:
  /tasks:
    post:
      operationId: postTask
      x-req-id: [ORCH-9001, ORCH-9002]
      responses:
        '202':
          x-req-id: ORCH-9001
          description: Accepted.
        '400': {$ref: '#/components/responses/Bad'}
components:
  responses:
    Bad:
      x-req-id: ORCH-9001
      description: Refused.
  headers:
    Place:
      x-req-id: ORCH-9002
""",
    CONTROL: """\
paths:
  /health:
    get:
      operationId: getHealth
      x-req-id: ORCH-9002
      responses:
        '400': {$ref: 'data.yaml#/components/responses/Bad'}
""",
    PACT: pact(interaction("a task", "ORCH-9001"), interaction("a list", "ORCH-9001", "ORCH-9002")),
    METRICS: '{"metrics": [\n  {"name": "tasks_total", "req": ["ORCH-9001"]},\n  {"name": "wait_ms", "req": ["ORCH-9002"]}\n]}\n',
    CODE: '''\
"""Queue tasks.

Req: ORCH-9001
"""


class Queue:
    """Hold tasks."""

    def push(self) -> None:
        """Take a task.

        Req: ORCH-9001, ORCH-9002
        """
''',
    TEST: '''\
"""The queue."""

import pytest

pytestmark = pytest.mark.req("ORCH-9001")


@pytest.mark.req("ORCH-9001", "ORCH-9002")
def test_push() -> None:
    """A task is taken."""
''',
}
