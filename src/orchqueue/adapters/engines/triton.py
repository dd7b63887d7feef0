"""Triton Inference Server as a replica, for models with TensorRT-LLM's tensors.

A replica's URL may name the model and the port of the metrics: `http://host:8000/v2/models/ensemble?metrics_port=8002`, which is also
what holds where it does not. Prompts are passed as they are: no chat template and no tokenizer stand behind Triton's routes.

Req: ORCH-3045, ORCH-3017, ORCH-4222
"""

from __future__ import annotations

import asyncio
import math
from itertools import count
from typing import ClassVar, TypeVar
from urllib.parse import parse_qs

import msgspec

from orchqueue.adapters.engines.attempt import Prepared, RefusedError
from orchqueue.adapters.engines.connection import Answer, Endpoint, request
from orchqueue.adapters.engines.replica import Course, EngineReplica, ReadDevices
from orchqueue.adapters.engines.sampling import Feature, JsonValue
from orchqueue.adapters.engines.schema_guard import guard_of
from orchqueue.adapters.engines.selftest import Description, Properties, digest_of
from orchqueue.adapters.engines.triton_gauges import Gauges, read_gauges
from orchqueue.adapters.engines.triton_messages import (
    ModelConfig,
    ServedModel,
    ServerInfo,
    combine,
    error_in,
    meaning_of,
    refused,
)
from orchqueue.adapters.engines.triton_reader import Expected, TritonReader, Watch
from orchqueue.adapters.engines.triton_sampling import OFFERS, SEED_LIMIT, request_fields, sampler_words
from orchqueue.core.request import TaskSpec
from orchqueue.ports.engine import Scrape
from orchqueue.ports.errors import EngineError

T = TypeVar("T")

MODEL = "ensemble"
METRICS_PORT = 8002
METRICS_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 10.0
CTX_UNKNOWN = 2048
"""Tokens of a task where neither the model nor the pool says how many."""
PARTS_MAX = 16
STALE_S = 0.3
"""TensorRT-LLM brings its gauges up to date every 100 ms, so one that never showed a request may lag behind it."""
UNSEEN_S = 1.5
"""How long a request that never answered must not show before we trust that it was dropped."""
IDLE_LOOKS = 2

_numbers = count(1)


class TritonReplica(EngineReplica):
    """One model of one Triton server.

    Req: ORCH-4035, ORCH-4222
    """

    engine: ClassVar[str] = "triton"
    offers: ClassVar[frozenset[Feature]] = OFFERS
    seed_limit: ClassVar[int] = SEED_LIMIT

    def __init__(
        self, endpoint: Endpoint, description: Description | None = None, *, allow_simulated: bool = False,
        read_devices: ReadDevices | None = None,
    ) -> None:  # fmt: skip
        prefix, _, model = endpoint.prefix.partition("/v2/models/")
        base = msgspec.structs.replace(endpoint, prefix=prefix)
        super().__init__(base, description, allow_simulated=allow_simulated, read_devices=read_devices)
        self.model = model or MODEL
        self.metrics = msgspec.structs.replace(base, prefix="", port=metrics_port(endpoint.query))
        self._served: ServedModel | None = None
        self._began: set[int] = set()
        self._foreign = 0
        self._model_died = False

    @staticmethod
    def sampler_words(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
        """Say a task's samplers as inputs; which of them a model declares is seen with the model."""
        return sampler_words(spec, profile)

    async def health(self) -> bool:
        """Tell whether server and model are ready.

        A Python model whose process was killed stays "ready" for Triton; only requests tell. Then one is made to ask.

        Req: ORCH-4463
        """
        for path in ("/v2/health/ready", f"/v2/models/{self.model}/ready"):
            status = await self.answers(path)
            if status not in {200, 400, 503}:
                raise EngineError(f"{self.endpoint.url}{path} answered {status}")
            if status != 200:
                return False
        if self._model_died:
            answer = await self._post("generate", {"text_input": "a", "max_tokens": 1}, PROBE_TIMEOUT_S)
            self._model_died = meaning_of(error_in(answer.body)[0]) == "lost"
        return not self._model_died

    async def properties(self) -> Properties:
        """Read what the server and its model say.

        Triton does not tell how many requests the model decodes at once, so the pool says it. Nor does it tell the longest sequence: only
        the size of the KV memory bounds it, where that is configured.

        Req: ORCH-4464
        """
        server = self._read(await request(self.endpoint, "GET", "/v2"), ServerInfo)
        self.refuse_simulated("simulated" in server.name or "simulated" in server.version)
        model, described = await self._read_model(), self.description
        room = model.number("max_tokens_in_paged_kv_cache")
        ctx = min(described.ctx, room or described.ctx) if described.ctx else room // described.slots or CTX_UNKNOWN
        reuses = "it reuses the KV of earlier prompts (enable_kv_cache_reuse), which changes texts"
        return Properties(
            slots_total=described.slots,
            ctx=ctx,
            engine_version=f"triton-{server.version}+trtllm-{model.settings.get('tensorrt_llm_version', model.backend)}",
            model_digest=digest_of(described.model_ref, model.name, model.backend, *sorted(model.parts)),
            not_strict=reuses if model.says("enable_kv_cache_reuse") else "",
        )

    async def is_idle(self) -> bool | None:
        """Tell whether no request is active; None where no gauge shows it."""
        gauges = await self._gauges()
        return None if gauges is None else gauges.active == 0

    async def figures(self) -> Scrape:
        """Read how full the KV memory is, and see who else uses the engine while we do not."""
        gauges = await self._gauges()
        if gauges is None:
            return Scrape()
        if not self._attempts:
            self._foreign = gauges.active
        return Scrape(gauges.kv_usage_ratio)

    async def count_prompt(self, spec: TaskSpec) -> int | None:
        """Give none: Triton offers no tokenizer."""
        del spec
        return None

    def course(self, spec: TaskSpec, profile: str, cache_prompt: bool, said: str) -> Course:
        """Say how an attempt is made and ended. To go on from a text is to have it at the end of the prompt."""
        # No input asks for it; `properties` looks whether the model reuses KV for all.
        del cache_prompt
        number = next(_numbers)

        async def prepare() -> Prepared:
            return await self._prepare(number, spec, profile, said)

        async def settle(answered: bool) -> None:
            self._began.discard(number)
            await self._until_idle(answered)

        return Course(prepare, settle)

    async def _prepare(self, number: int, spec: TaskSpec, profile: str, said: str) -> Prepared:
        model = self._served or await self._read_model()
        fields = request_fields(spec, self.sampler_words(spec, profile), model, said)
        guard = guard_of(spec.sampling)
        prompt = (spec.prompt or "") + said
        excluded = "exclude_input_in_output" in model.inputs or model.says("exclude_input_in_output")
        expected = Expected(
            max_tokens=spec.max_tokens,
            prompt_bytes=len(prompt.encode()),
            stops=tuple(spec.sampling.stop),
            stops_told="stop_words" in model.inputs,
            cumulative=model.says("accumulate_tokens"),
            echo="" if excluded else prompt,
            counts_in=model.counts("num_input_tokens"),
            counts_out=model.counts("num_output_tokens"),
        )
        watch = Watch(lambda: self._began.add(number), lambda: self._began.discard(number), self._note_death)
        reader = TritonReader(expected, asyncio.get_running_loop().time, watch)
        return Prepared(f"/v2/models/{self.model}/generate_stream", msgspec.json.encode(fields), reader, guard)

    def _note_death(self) -> None:
        self._model_died = True

    async def _read_model(self) -> ServedModel:
        """Read the configuration of the model and of those that it is made of, and see who else uses it.

        Errors: EngineError, also where it is no model that streams text.
        """
        configs = [await self._config(self.model)]
        names = [self.model]
        for config in configs:
            for part in config.parts:
                if part not in names and len(names) < PARTS_MAX:
                    names.append(part)
                    configs.append(await self._config(part))
        model = combine(configs)
        if missing := {"text_input", "max_tokens"} - model.inputs | {"text_output"} - model.outputs:
            raise EngineError(f"{self.endpoint.url}: model {model.name} has no {', '.join(sorted(missing))}")
        if not model.decoupled:
            raise EngineError(f"{self.endpoint.url}: model {model.name} is not decoupled, so it cannot stream")
        self._served = model
        if not self._began and (gauges := await self._gauges()) is not None:
            self._foreign = gauges.active
        return model

    async def _config(self, model: str) -> ModelConfig:
        return self._read(await request(self.endpoint, "GET", f"/v2/models/{model}/config"), ModelConfig)

    async def _gauges(self) -> Gauges | None:
        """Read the gauges; None where they are not shown, though the server answers."""
        try:
            answer = await request(self.metrics, "GET", "/metrics", timeout_s=METRICS_TIMEOUT_S)
        except EngineError:
            await self.answers("/v2/health/live")
            return None
        parts = frozenset({self.model}) if self._served is None else self._served.parts
        return read_gauges(answer.body, parts) if answer.status == 200 else None

    async def _until_idle(self, answered: bool) -> None:
        """Return when the engine works on nothing beyond what others have there and what began to answer us.

        1. More than that is active: keep looking.
        2. Not more, at each of some looks in a row, and more was seen before: it is over.
        3. Never more: the gauge may lag, or the request may still be on its way; then that must hold for a while from the first
           answer on.
        4. A server that hides its gauges gets that same while. A silent one is asked again; a refused connection means it is dead.

        Triton notices a closed connection when it writes, and hands no cancel to the models of an ensemble: those decode to their end.
        """
        loop = asyncio.get_running_loop()
        began_s = math.inf
        seen, looks = False, 0

        async def is_over() -> bool:
            nonlocal seen, looks, began_s
            gauges = await self._gauges()
            began_s = min(began_s, loop.time())
            waited_s = loop.time() - began_s
            if gauges is None:
                return waited_s >= UNSEEN_S
            if gauges.active > self._foreign + len(self._began):
                seen, looks = True, 0
                return False
            looks += 1
            return looks >= IDLE_LOOKS and (seen or waited_s >= (STALE_S if answered else UNSEEN_S))

        await self.poll(is_over)

    async def _post(self, verb: str, fields: dict[str, object], timeout_s: float) -> Answer:
        path = f"/v2/models/{self.model}/{verb}"
        return await request(self.endpoint, "POST", path, msgspec.json.encode(fields), timeout_s)

    def _read(self, answer: Answer, kind: type[T]) -> T:
        if answer.status != 200:
            told = refused(answer)
            raise RefusedError(told.failure, f"{self.endpoint.url}: {told.detail}")
        return self.decoded(answer, kind)


def metrics_port(query: str) -> int:
    """Read the port of the metrics out of a URL's query.

    Errors: EngineError where it is none.
    """
    said = parse_qs(query).get("metrics_port", [str(METRICS_PORT)])[-1]
    if not (said.isascii() and said.isdigit() and 0 < int(said) < 65536):
        raise EngineError(f"metrics_port {said!r} is no port")
    return int(said)
