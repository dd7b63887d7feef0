"""The client: asynchronous, with a synchronous facade. What the CLI and the tests use."""

from orchqueue.client.aio import AsyncClient
from orchqueue.client.patience import NO_RETRY, ReconnectPolicy, RetryPolicy
from orchqueue.client.stream import TaskStream
from orchqueue.client.sync import Client, Stream
from orchqueue.client.transport import Timeouts
from orchqueue.schema.data import Message, Placement, Sampling, TaskRequest

__all__ = [
    "NO_RETRY",
    "AsyncClient",
    "Client",
    "Message",
    "Placement",
    "ReconnectPolicy",
    "RetryPolicy",
    "Sampling",
    "Stream",
    "TaskRequest",
    "TaskStream",
    "Timeouts",
]
