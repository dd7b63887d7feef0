"""The client: asynchronous, with a synchronous facade. What the CLI and the tests use."""

from orchqueue.client.aio import AsyncClient
from orchqueue.client.patience import NO_RETRY, ReconnectPolicy, RetryPolicy
from orchqueue.client.stream import TaskStream
from orchqueue.client.transport import Timeouts

__all__ = ["NO_RETRY", "AsyncClient", "ReconnectPolicy", "RetryPolicy", "TaskStream", "Timeouts"]
