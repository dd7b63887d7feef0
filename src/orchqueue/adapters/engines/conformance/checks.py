"""The checks, each an async function of one replica that raises DisprovedError where the engine does not do it."""

from __future__ import annotations

import asyncio
import json

import msgspec

from orchqueue.adapters.engines.conformance.listening import (
    DisprovedError,
    Listener,
    begin,
    complete,
    decode,
    demand,
    endless,
)
from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.adapters.engines.sampling import Feature
from orchqueue.core.request import Message, Sampling, TaskSpec

LONG = TaskSpec(prompt="Once upon a time", seed=7, max_tokens=400, sampling=endless())
SCHEMA = '{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}'
CHAT = (Message("system", "be brief"), Message("user", "hi"), Message("assistant", "yes?"), Message("user", "go on"))
HEX_DIGEST = 64


async def is_healthy(replica: EngineReplica) -> None:
    """See the engine healthy."""
    demand(await replica.health(), "the engine is not healthy")


async def tells_properties(replica: EngineReplica) -> None:
    """See its slots, context, version and a digest of its model."""
    told = await replica.properties()
    demand(told.slots_total >= 1, f"slots_total is {told.slots_total}")
    demand(told.ctx >= 1, f"the context is {told.ctx} tokens")
    demand(bool(told.engine_version), "the version is empty")
    demand(len(told.model_digest) == HEX_DIGEST, f"the model's digest is {told.model_digest!r}")


async def passes_self_test(replica: EngineReplica) -> None:
    """Pass the self-test: rates are measured, and the bound of the chat template holds."""
    facts = await replica.self_test()
    demand(facts.prefill_us_per_token > 0 and facts.decode_us_per_token > 0, "no rates were measured")
    demand(
        facts.strict_proven or bool(facts.selftest_note) or facts.slots_total > 1, "not strict, and no reason is given"
    )
    chats = "messages" in replica.offers and "completion" in replica.description.workloads
    size = await replica.template_bytes(CHAT) if chats else None
    if size is not None:
        added = size - sum(len(message.role) + len(message.content) for message in CHAT)
        bound = facts.template_fixed_bytes + len(CHAT) * facts.template_message_bytes
        demand(added <= bound, f"the template adds {added} bytes, above its bound of {bound}")


async def counts_tokens(replica: EngineReplica) -> None:
    """Count a prompt as the engine itself does when it serves it."""
    spec = TaskSpec(prompt="Count the stars above", seed=5, max_tokens=4, sampling=endless())
    _, completion = await complete(replica, spec)
    counted = await replica.count_prompt(spec)
    demand(counted == completion.tokens_in, f"counted {counted}, the engine says {completion.tokens_in}")


async def streams(replica: EngineReplica) -> None:
    """Stream whole characters in several reads, the counts rising to the engine's own."""
    spec = TaskSpec(prompt="Emoji 😀, 東京 and words:", seed=1001, max_tokens=24, sampling=endless())
    run = await decode(replica, spec)
    if run.completion is None:
        raise DisprovedError(f"the attempt failed: {run.failure}")
    told = run.completion
    demand(bool(run.reads), "no text came")
    # While this machine stands still for a moment, all of a short text may arrive.
    parts = len(run.reads) if len(run.reads) > 1 else len((await decode(replica, LONG)).reads)
    demand(parts > 1, "all text came at once: it is not streamed")
    demand("\ufffd" not in run.text, f"a character was split: {run.text!r}")
    demand(run.counts[-1] <= told.tokens_out, f"{run.counts[-1]} tokens while it ran, {told.tokens_out} at the end")
    exact = told.tokens_out == spec.max_tokens if told.finish_reason == "length" else told.tokens_out < spec.max_tokens
    demand(exact, f"{told.tokens_out} tokens of {spec.max_tokens}, and the reason is {told.finish_reason}")
    demand(told.tokens_in > 0, "no prompt tokens are told")


async def repeats(replica: EngineReplica) -> None:
    """Give the same text to the same request, one request at a time, with others of other lengths in between."""
    spec = TaskSpec(prompt="My favourite words are", seed=1001, max_tokens=24, sampling=endless())
    other = TaskSpec(prompt="A much longer prompt than the other one, " * 4, seed=3, max_tokens=5)
    texts = set()
    for _ in range(3):
        texts.add((await complete(replica, spec))[0])
        await complete(replica, other)
    demand(len(texts) == 1, f"three runs gave {len(texts)} texts: {sorted(texts)}")
    demand(bool(texts.pop()), "the text is empty")


async def heeds_seed_and_profile(replica: EngineReplica) -> None:
    """Give another text for another seed under `v1`, and the same under `greedy-v1`."""
    specs = [TaskSpec(prompt="My favourite word is", seed=seed, max_tokens=16, sampling=endless()) for seed in (1, 2)]
    sampled = [(await complete(replica, spec))[0] for spec in specs]
    greedy = [(await complete(replica, spec, profile="greedy-v1"))[0] for spec in specs]
    demand(sampled[0] != sampled[1], f"two seeds gave the same text: {sampled[0]!r}")
    demand(greedy[0] == greedy[1], f"greedy decoding gave {greedy[0]!r} and {greedy[1]!r}")


async def takes_its_seeds(replica: EngineReplica) -> None:
    """Serve the least and the greatest seed, and refuse what lies outside."""
    spec = TaskSpec(prompt="x", max_tokens=2, seed=0)
    for seed in (0, replica.seed_limit - 1):
        await complete(replica, msgspec.structs.replace(spec, seed=seed))
    for seed in (-1, replica.seed_limit):
        await _is_rejected(replica, msgspec.structs.replace(spec, seed=seed), f"seed {seed}")


async def stops_at_strings(replica: EngineReplica) -> None:
    """Leave out a stop string and what follows, wherever the pieces were cut, and end with `stop`."""
    plain = TaskSpec(prompt="The weather in the city", seed=11, max_tokens=40, sampling=endless())
    whole, _ = await complete(replica, plain)
    words = [word for word in whole.split() if len(word) > 2]
    demand(len(words) > 6, f"too little text to stop in: {whole!r}")
    for stop in (
        words[6],
        f"never {words[5]}",
        whole[whole.index(words[4]) : whole.index(words[4]) + len(words[4]) + 3],
    ):
        stopped = msgspec.structs.replace(plain, sampling=endless(stop=(stop,)))
        text, completion = await complete(replica, stopped)
        at = whole.find(stop)
        expected = whole if at < 0 else whole[:at]
        demand(text == expected, f"stopped at {stop!r}: {text!r}, and not {expected!r}")
        demand(at < 0 or completion.finish_reason == "stop", f"stopped at {stop!r}: {completion.finish_reason}")


async def renders_chats(replica: EngineReplica) -> None:
    """Render a chat with the model's own template before it is decoded, and count it so."""
    spec = TaskSpec(messages=(Message("user", "Say hello"),), seed=5, max_tokens=4)
    text, completion = await complete(replica, spec)
    demand(bool(text), "the chat was answered with nothing")
    if "tokenize" in replica.offers:
        counted = await replica.count_prompt(spec)
        demand(counted == completion.tokens_in, f"counted {counted}, the engine says {completion.tokens_in}")
    bare = await complete(replica, TaskSpec(prompt="Say hello", seed=5, max_tokens=1))
    demand(completion.tokens_in > bare[1].tokens_in, "no template was put around the message")


async def reads_controls(replica: EngineReplica) -> None:
    """Read what stands behind a NUL or another control character."""
    short = await complete(replica, TaskSpec(prompt="before", seed=1, max_tokens=1))
    whole = await complete(replica, TaskSpec(prompt="before\0after \u0007 and more", seed=1, max_tokens=1))
    demand(whole[1].tokens_in > short[1].tokens_in + 2, "the prompt was cut at a control character")


async def binds_to_grammar(replica: EngineReplica) -> None:
    """Let a grammar decide the text, and reject one that cannot be parsed."""
    spec = TaskSpec(prompt="Yes or no?", seed=1, max_tokens=10, sampling=Sampling(grammar='root ::= "certainly"'))
    text, _ = await complete(replica, spec)
    demand(text == "certainly", f"the grammar allows 'certainly' only, and the text is {text!r}")
    await _is_rejected(
        replica, TaskSpec(prompt="x", seed=1, max_tokens=2, sampling=Sampling(grammar="root ::= (")), "a bad grammar"
    )


async def binds_to_schema(replica: EngineReplica) -> None:
    """Let a JSON Schema decide the text, and reject what is none."""
    # Enough for all the white space that an engine may put between two marks.
    text, completion = await complete(
        replica, TaskSpec(prompt="ok?", seed=1, max_tokens=200, sampling=Sampling(json_schema=SCHEMA))
    )
    demand(completion.finish_reason == "stop", f"it ended with {completion.finish_reason}")
    try:
        demand(isinstance(json.loads(text)["ok"], bool), f"the text does not match: {text!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise DisprovedError(f"the text does not match the schema: {text!r}") from error
    bad = TaskSpec(prompt="x", seed=1, max_tokens=2, sampling=Sampling(json_schema='{"type":"nonsense"}'))
    await _is_rejected(replica, bad, "a bad schema")


async def rejects_what_cannot_be(replica: EngineReplica) -> None:
    """Reject, before any text, what this engine will never do."""
    ctx = (await replica.properties()).ctx
    await _is_rejected(replica, TaskSpec(prompt="x " * (2 * ctx), seed=1, max_tokens=2), "a prompt above the context")
    await _is_rejected(replica, TaskSpec(prompt="x", seed=1, max_tokens=0), "no tokens")
    await _is_rejected(replica, TaskSpec(inputs=("x",), workload="embedding", seed=1), "an embedding")


async def says_what_it_lacks(replica: EngineReplica) -> None:
    """Refuse by its name each feature that the engine does not offer."""
    wishes: dict[Feature, TaskSpec] = {
        "messages": TaskSpec(messages=CHAT, seed=1),
        "stop": TaskSpec(prompt="x", seed=1, sampling=Sampling(stop=("END",))),
        "ignore_eos": TaskSpec(prompt="x", seed=1, sampling=Sampling(ignore_eos=True)),
        "min_p": TaskSpec(prompt="x", seed=1, sampling=Sampling(min_p=0.1)),
        "repeat_penalty": TaskSpec(prompt="x", seed=1, sampling=Sampling(repeat_penalty=1.1)),
        "json_schema": TaskSpec(prompt="x", seed=1, sampling=Sampling(json_schema=SCHEMA)),
        "grammar": TaskSpec(prompt="x", seed=1, sampling=Sampling(grammar='root ::= "a"')),
    }
    for feature, spec in wishes.items():
        if feature in replica.offers:
            continue
        listener = Listener()
        replica.start(spec, "v1", False, listener)
        await listener.end()
        told = listener.failure or ("", "it was served")
        demand(told[0] == "rejected" and feature in told[1], f"{feature} is not offered, and the answer was: {told[1]}")


async def goes_on(replica: EngineReplica) -> None:
    """Go on from a text that was begun: what follows is new text, and the prompt holds what was said."""
    spec = TaskSpec(prompt="Once upon a time", seed=7, max_tokens=12, sampling=endless())
    begun, first = await complete(replica, spec)
    more, second = await complete(replica, spec, said=begun)
    demand(bool(more), "nothing followed")
    demand(second.tokens_in > first.tokens_in, "what was said is not part of the prompt")


async def stops_when_told(replica: EngineReplica) -> None:
    """Stop at an abort inside the first text: no text follows, and `closed` comes when the engine is seen idle."""
    for _ in range(3):
        run = begin(replica, LONG, on_first=lambda handle: handle.abort())
        await run.end()
        demand(len(run.reads) == 1, f"{len(run.reads)} reads came after the abort")
        demand(run.completion is None and run.failure is None, f"an end was told: {run.completion} {run.failure}")
        demand(await replica.is_idle() is not False, "the engine is still at work after `closed`")


async def stops_before_it_began(replica: EngineReplica) -> None:
    """Stop before anything was sent, right after, and while the prompt is read."""
    spec = TaskSpec(prompt="word " * 1200, seed=1, max_tokens=300, sampling=endless())
    for turns in (0, 1, 3, 6, 12):
        run = begin(replica, spec)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert run.handle is not None
        shown = len(run.reads)
        run.handle.abort()
        run.handle.abort()
        await run.end()
        demand(len(run.reads) == shown, "text came after the abort")
        demand(await replica.is_idle() is not False, "the engine is still at work after `closed`")


async def stops_while_a_chat_is_rendered(replica: EngineReplica) -> None:
    """Stop while the chat is being made; nothing is decoded."""
    run = begin(replica, TaskSpec(messages=(Message("user", "hi"),), seed=1))
    await asyncio.sleep(0)
    assert run.handle is not None
    run.handle.abort()
    await run.end()
    demand(not run.reads, "text came after the abort")
    demand(await replica.is_idle() is not False, "the engine is still at work after `closed`")


async def ignores_a_late_stop(replica: EngineReplica) -> None:
    """Change nothing at an abort after the end."""
    run = await decode(replica, TaskSpec(prompt="Hi", seed=1, max_tokens=2))
    assert run.handle is not None
    run.handle.abort()
    await asyncio.sleep(0)
    demand(run.completion is not None, f"the attempt failed: {run.failure}")
    await run.end()


async def embeds(replica: EngineReplica) -> None:
    """Give one vector for each input in their order, equal for equal texts whatever stands beside them."""
    texts = ("a cat on the roof", "the price of wheat in 1840", "a cat on the roof")
    text, completion = await complete(replica, TaskSpec(inputs=texts, workload="embedding", seed=1, max_tokens=1))
    vectors = json.loads(text)["embeddings"]
    sizes = {len(vector) for vector in vectors}
    demand(
        len(vectors) == len(texts) and len(sizes) == 1 and 0 not in sizes, f"{len(vectors)} vectors of sizes {sizes}"
    )
    demand(vectors[0] == vectors[2] and vectors[0] != vectors[1], "vectors do not follow from their texts")
    alone, _ = await complete(replica, TaskSpec(inputs=texts[:1], workload="embedding", seed=1, max_tokens=1))
    demand(json.loads(alone)["embeddings"][0] == vectors[0], "a vector depends on what stands beside it")
    demand(completion.tokens_in > 0 and completion.tokens_out == 0, f"counted {completion}")
    await _is_rejected(replica, TaskSpec(inputs=("q", "d"), workload="rerank", seed=1, max_tokens=1), "a ranking")


async def ranks(replica: EngineReplica) -> None:
    """Give one score for each document in their order."""
    inputs = ("cats and roofs", "the price of wheat in 1840", "cats and roofs and dogs")
    text, completion = await complete(replica, TaskSpec(inputs=inputs, workload="rerank", seed=1, max_tokens=1))
    scores = json.loads(text)["scores"]
    demand(len(scores) == len(inputs) - 1, f"{len(scores)} scores for {len(inputs) - 1} documents")
    demand(scores[1] > scores[0], f"what is asked for scores {scores[1]}, something else {scores[0]}")
    demand(completion.tokens_in > 0 and completion.tokens_out == 0, f"counted {completion}")


async def tells_figures(replica: EngineReplica) -> None:
    """Tell how full the KV memory is, from 0 to 1."""
    ratio = (await replica.scrape()).kv_usage_ratio
    demand(ratio is not None and 0 <= ratio <= 1, f"the KV ratio is {ratio}")


async def _is_rejected(replica: EngineReplica, spec: TaskSpec, what: str) -> None:
    run = await decode(replica, spec)
    told = run.failure or ("", "it was served")
    demand(told[0] == "rejected", f"{what} is not rejected: {told[0]} {told[1]}")
    demand(not run.reads, f"{what} brought text before it was rejected")
