"""The scheduling policies that a pool can name. Another one is a module like these, a line here, and passes the same tests.

Req: ORCH-4360
"""

from __future__ import annotations

from orchqueue.core.policies import fair, fifo, round_robin, strict_priority
from orchqueue.core.policies.policy import Policy
from orchqueue.core.settings import Scheduling

POLICIES: dict[Scheduling, Policy] = {
    "fair": fair,
    "fifo": fifo,
    "strict-priority": strict_priority,
    "round-robin": round_robin,
}
