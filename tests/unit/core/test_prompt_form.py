"""A bare prompt in a pool whose model expects a chat."""

import msgspec
import pytest

from orchqueue.core import admission
from orchqueue.core.effects import StartAttempt
from orchqueue.core.request import Message, TaskSpec
from orchqueue.core.state import Pool
from tests.unit.core.driving import Driver, pool_settings


@pytest.mark.req("ORCH-4060")
def test_chat_pool_gives_its_engine_a_chat_and_keeps_the_request() -> None:
    """The engine gets one user message; the recorded request stays as the client sent it."""
    core = Driver(msgspec.structs.replace(pool_settings(), prompt_form="chat"))
    core.submit("t")
    (start,) = [e for e in core.log if isinstance(e, StartAttempt)]
    (task,) = core.core.state.active.values()
    assert task.spec.prompt is not None
    assert start.spec == msgspec.structs.replace(task.spec, prompt=None, messages=(Message("user", task.spec.prompt),))


@pytest.mark.req("ORCH-4060")
def test_chat_pool_counts_the_template_too() -> None:
    """What the template adds counts towards ctx: a prompt that fits bare by a hair has to be counted in a chat pool."""
    settings = msgspec.structs.replace(pool_settings(), ctx=100)
    raw, chat = Pool(settings), Pool(msgspec.structs.replace(settings, prompt_form="chat"))
    spec = TaskSpec(prompt="x" * 89, max_tokens=10)
    assert admission.count_prompt(raw, spec) == admission.Counted(90, "bytes_bound")
    assert admission.count_prompt(chat, spec) is None
    assert raw.set_key != chat.set_key
