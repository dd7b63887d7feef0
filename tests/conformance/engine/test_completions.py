"""What every engine behind the port does, simulated or real."""

import asyncio
import json

import msgspec
import pytest

from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.core.request import Message, Sampling, TaskSpec
from tests.conformance.engine.conftest import begin, decode, idle

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

LONG = TaskSpec(prompt="Once upon a time", seed=7, max_tokens=400, sampling=Sampling(ignore_eos=True))


@pytest.mark.req("ORCH-4212", "ORCH-4218")
async def test_health_and_properties(replica: LlamacppReplica) -> None:
    """A loaded engine is healthy and tells its slots."""
    assert await replica.health()
    assert (await replica.props()).total_slots == 1


@pytest.mark.req("ORCH-3003", "ORCH-4135")
async def test_self_test_proves_a_strict_replica(replica: LlamacppReplica) -> None:
    """The self-test of a one-slot engine proves strictness, measures rates and bounds the template."""
    facts = await replica.self_test()
    assert facts.strict_proven, facts.selftest_note
    assert len(facts.known_answer) == 64
    assert facts.prefill_us_per_token > 0
    assert facts.decode_us_per_token > 0
    assert facts.ctx == 2048
    messages = (
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", "yes?"),
        Message("user", "go on"),
    )
    added = len((await replica.apply_template(messages)).encode()) - sum(len(m.role) + len(m.content) for m in messages)
    assert added <= facts.template_fixed_bytes + len(messages) * facts.template_message_bytes


@pytest.mark.req("ORCH-3045", "ORCH-4212")
async def test_same_request_same_text(replica: LlamacppReplica) -> None:
    """The same prompt and seed give the same text with other requests of other lengths in between."""
    spec = TaskSpec(prompt="Emoji 😀 and words:", seed=1001, max_tokens=24, sampling=Sampling(ignore_eos=True))
    other = TaskSpec(prompt="A much longer prompt than the other one, " * 4, seed=3, max_tokens=5)
    texts = set()
    for _ in range(3):
        texts.add((await decode(replica, spec)).text)
        await decode(replica, other)
    assert len(texts) == 1
    assert texts.pop()


@pytest.mark.req("ORCH-4172")
async def test_seed_and_profile_matter(replica: LlamacppReplica) -> None:
    """Another seed gives another text under `v1`, and the same one under `greedy-v1`."""
    sampling = Sampling(ignore_eos=True)
    specs = [TaskSpec(prompt="My favourite word is", seed=seed, max_tokens=16, sampling=sampling) for seed in (1, 2)]
    sampled = [(await decode(replica, spec)).text for spec in specs]
    greedy = [(await decode(replica, spec, profile="greedy-v1")).text for spec in specs]
    assert sampled[0] != sampled[1]
    assert greedy[0] == greedy[1]


@pytest.mark.req("ORCH-4214")
async def test_counts_are_the_engines(replica: LlamacppReplica) -> None:
    """The last count equals the completion's, a limit ends with `length`, and the prompt's tokens are told."""
    spec = TaskSpec(prompt="Count the stars above", seed=5, max_tokens=12, sampling=Sampling(ignore_eos=True))
    run = await decode(replica, spec)
    assert run.completion is not None, run.failure
    assert run.completion.finish_reason == "length"
    assert run.completion.tokens_out == 12
    assert run.counts[-1] <= 12
    assert run.completion.tokens_in == await replica.count_prompt(spec)


@pytest.mark.req("ORCH-4062")
async def test_stop_strings_are_left_out(replica: LlamacppReplica) -> None:
    """A stop string ends the text before it, with `stop`."""
    plain = TaskSpec(prompt="The weather in the city", seed=11, max_tokens=40, sampling=Sampling(ignore_eos=True))
    whole = (await decode(replica, plain)).text
    word = whole.split()[6]
    stopped = await decode(replica, msgspec.structs.replace(plain, sampling=Sampling(ignore_eos=True, stop=(word,))))
    assert stopped.completion is not None, stopped.failure
    assert stopped.completion.finish_reason == "stop"
    assert stopped.text == whole[: whole.index(word)]


@pytest.mark.req("ORCH-4036")
async def test_messages_go_through_the_template(replica: LlamacppReplica) -> None:
    """A chat is rendered by the model's template before it is decoded and counted."""
    spec = TaskSpec(messages=(Message("user", "Say hello"),), seed=5, max_tokens=4)
    run = await decode(replica, spec)
    assert run.completion is not None, run.failure
    rendered = await replica.apply_template(spec.messages or ())
    assert run.completion.tokens_in == await replica.count_prompt(TaskSpec(prompt=rendered))
    assert run.completion.tokens_in == await replica.count_prompt(spec)


@pytest.mark.req("ORCH-4056")
async def test_nul_and_controls_are_not_cut(replica: LlamacppReplica) -> None:
    """A NUL in the prompt costs tokens of its own and what follows it is read."""
    spec = TaskSpec(prompt="before\0after \u0007 and more", seed=1, max_tokens=2)
    run = await decode(replica, spec)
    assert run.completion is not None, run.failure
    before = await replica.count_prompt(TaskSpec(prompt="before"))
    assert before is not None
    assert run.completion.tokens_in > before + 2
    assert run.completion.tokens_in == await replica.count_prompt(spec)


@pytest.mark.req("ORCH-4063")
async def test_grammar_binds(replica: LlamacppReplica) -> None:
    """A grammar decides the text."""
    spec = TaskSpec(prompt="Yes or no?", seed=1, max_tokens=10, sampling=Sampling(grammar='root ::= "certainly"'))
    assert (await decode(replica, spec)).text == "certainly"


@pytest.mark.req("ORCH-4063")
async def test_json_schema_binds(replica: LlamacppReplica) -> None:
    """With a schema the text is JSON."""
    schema = '{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}'
    spec = TaskSpec(prompt="ok?", seed=1, max_tokens=80, sampling=Sampling(json_schema=schema))
    run = await decode(replica, spec)
    assert run.completion is not None, run.failure
    assert run.completion.finish_reason == "stop"
    assert isinstance(json.loads(run.text), dict)


@pytest.mark.parametrize(
    "spec",
    [
        TaskSpec(prompt="x " * 5000, seed=1, max_tokens=2),
        TaskSpec(prompt="x", seed=1, max_tokens=2, sampling=Sampling(grammar="root ::= (")),
        TaskSpec(prompt="x", seed=1, max_tokens=2, sampling=Sampling(grammar='root ::= "a"\0 "b"')),
        TaskSpec(prompt="x", seed=2**32 - 1, max_tokens=2),
        TaskSpec(prompt="x", seed=-1, max_tokens=2),
        TaskSpec(prompt="x", seed=1, max_tokens=0),
        TaskSpec(inputs=("x",), workload="embedding", seed=1),
        TaskSpec(prompt="x", seed=1, sampling=Sampling(json_schema='{"type":"nonsense"}')),
    ],
    ids=[
        "too-long",
        "bad-grammar",
        "cut-grammar",
        "random-seed",
        "negative-seed",
        "no-tokens",
        "embedding",
        "bad-schema",
    ],
)
@pytest.mark.req("ORCH-4216")
async def test_what_cannot_be_served_is_rejected(replica: LlamacppReplica, spec: TaskSpec) -> None:
    """What no engine will ever do for this request is `rejected`, before any text."""
    run = await decode(replica, spec)
    assert run.failure is not None
    assert run.failure[0] == "rejected", run.failure
    assert not run.reads


@pytest.mark.req("ORCH-3017", "ORCH-4213")
async def test_abort_inside_the_first_chunk_frees_the_slot(replica: LlamacppReplica) -> None:
    """An abort from inside the sink ends all text at once, and `closed` comes when the slot is free."""
    for _ in range(5):
        run = begin(replica, LONG, on_first=lambda handle: handle.abort())
        await run.closed_event.wait()
        assert len(run.reads) == 1
        assert run.completion is None
        assert run.failure is None
        assert await idle(replica)


@pytest.mark.req("ORCH-3017", "ORCH-4213")
async def test_abort_at_once_and_during_prefill_frees_the_slot(replica: LlamacppReplica) -> None:
    """An abort before anything was sent, right after, and during prefill leaves no slot busy."""
    spec = TaskSpec(prompt="word " * 1200, seed=1, max_tokens=300, sampling=Sampling(ignore_eos=True))
    for turns in (0, 1, 3, 6, 12):
        run = begin(replica, spec)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert run.handle is not None
        run.handle.abort()
        run.handle.abort()
        await run.closed_event.wait()
        assert not run.reads
        assert await idle(replica)


@pytest.mark.req("ORCH-3017")
async def test_abort_while_the_template_is_applied(replica: LlamacppReplica) -> None:
    """An abort while the chat is still being rendered closes the attempt and nothing is decoded."""
    run = begin(replica, TaskSpec(messages=(Message("user", "hi"),), seed=1))
    await asyncio.sleep(0)
    assert run.handle is not None
    run.handle.abort()
    await run.closed_event.wait()
    assert not run.reads
    assert await idle(replica)


@pytest.mark.req("ORCH-3017")
async def test_abort_after_the_end_changes_nothing(replica: LlamacppReplica) -> None:
    """Once completed, an abort is ignored and `closed` comes once."""
    run = await decode(replica, TaskSpec(prompt="Hi", seed=1, max_tokens=2))
    assert run.handle is not None
    run.handle.abort()
    await asyncio.sleep(0)
    assert run.completion is not None


@pytest.mark.req("ORCH-4273")
async def test_scrape_tells_the_kv_use(replica: LlamacppReplica) -> None:
    """The KV ratio lies between 0 and 1."""
    ratio = (await replica.scrape()).kv_usage_ratio
    assert ratio is not None
    assert 0 <= ratio <= 1
