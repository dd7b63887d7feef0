"""What is read out of a model's configuration and gauges, and what a task is in its inputs."""

from __future__ import annotations

import msgspec
import pytest

from orchqueue.adapters.engines.connection import parse_endpoint
from orchqueue.adapters.engines.sampling import JsonValue, UnservableError
from orchqueue.adapters.engines.triton import METRICS_PORT, MODEL, TritonReplica, metrics_port
from orchqueue.adapters.engines.triton_gauges import Gauges, read_gauges
from orchqueue.adapters.engines.triton_messages import ModelConfig, ServedModel, combine
from orchqueue.adapters.engines.triton_sampling import SEED_LIMIT, request_fields, sampler_words
from orchqueue.core.request import Sampling, TaskSpec
from orchqueue.ports.errors import EngineError
from tests.conformance.engine.triton_wire import parse, recorded

SPEC = TaskSpec(prompt="hi", seed=7, max_tokens=5)


def fields_of(spec: TaskSpec, profile: str, of: ServedModel, said: str = "") -> dict[str, JsonValue]:
    """Say a task to a model."""
    return request_fields(spec, sampler_words(spec, profile), of, said)


def config(name: str) -> ModelConfig:
    """Read a recorded configuration."""
    return msgspec.json.decode(parse(recorded(name)).body, type=ModelConfig)


def model(**changes: object) -> ServedModel:
    """Give the recorded model, changed."""
    return msgspec.structs.replace(combine([config("config")]), **changes)


@pytest.mark.req("ORCH-4464")
def test_an_ensemble_is_read_with_its_parts() -> None:
    """Inputs and outputs are the ensemble's, settings and the backend those of what it is made of."""
    whole, part = config("config_ensemble"), config("config")
    assert whole.parts == ("tensorrt_llm_bls",)
    served = combine([whole, part])
    assert (served.name, served.backend, served.decoupled) == ("ensemble", "python", True)
    assert served.parts == {"ensemble", "tensorrt_llm_bls"}
    assert served.number("max_tokens_in_paged_kv_cache") == 2048
    assert served.counts("num_output_tokens")
    assert not served.says("accumulate_tokens")


@pytest.mark.req("ORCH-4464")
def test_a_models_own_settings_win_and_placeholders_are_none() -> None:
    """A template's placeholder that nobody filled says nothing, and the decoding backend names itself."""
    whole = msgspec.convert(
        {"name": "b", "backend": "python", "parameters": {
            "tensorrt_llm_model_name": {"string_value": "t"}, "accumulate_tokens": {"string_value": "True"},
            "x": {"string_value": "${x}"}}}, ModelConfig)  # fmt: skip
    part = msgspec.convert(
        {"name": "t", "backend": "tensorrtllm", "parameters": {
            "accumulate_tokens": {"string_value": "false"}, "x": {"string_value": "many"}}}, ModelConfig)  # fmt: skip
    served = combine([whole, part])
    assert (whole.parts, served.backend) == (("t",), "tensorrtllm")
    assert served.says("accumulate_tokens")
    assert (served.settings["x"], served.number("x"), served.number("y")) == ("many", 0, 0)
    assert combine([msgspec.convert({"name": "e", "platform": "ensemble"}, ModelConfig)]).backend == "ensemble"


@pytest.mark.req("ORCH-4222", "ORCH-3045")
def test_a_task_is_said_in_the_models_inputs() -> None:
    """Every sampler is named; counts are asked for, the prompt is not to be repeated, and no other input is sent."""
    fields = fields_of(SPEC, "v1", model(), said=" there")
    assert fields == {
        "text_input": "hi there", "max_tokens": 5, "stream": True, "random_seed": 7, "temperature": 0.7, "top_k": 40, "top_p": 0.95,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "exclude_input_in_output": True,
        "return_num_input_tokens": True, "return_num_output_tokens": True,
    }  # fmt: skip
    assert set(fields) <= model().inputs


@pytest.mark.req("ORCH-4172", "ORCH-4061")
def test_greedy_is_the_likeliest_of_one() -> None:
    """TensorRT-LLM takes no temperature of 0, so greedy is said as top_k 1, by profile or by the task itself."""
    for spec, profile in (
        (SPEC, "greedy-v1"),
        (msgspec.structs.replace(SPEC, sampling=Sampling(temperature=0.0)), "v1"),
    ):
        fields = fields_of(spec, profile, model())
        assert (fields["temperature"], fields["top_k"], fields["top_p"]) == (1.0, 1, 1.0)


@pytest.mark.req("ORCH-4062", "ORCH-4063", "ORCH-4064")
def test_what_a_task_wishes_has_its_own_inputs() -> None:
    """Stop strings, no end token, penalties and guides."""
    schema = '{"type":"object"}'
    wishes = Sampling(stop=("a", "b"), ignore_eos=True, repeat_penalty=1.2, json_schema=schema)
    fields = fields_of(msgspec.structs.replace(SPEC, sampling=wishes), "v1", model())
    assert (fields["stop_words"], fields["end_id"], fields["repetition_penalty"]) == (["a", "b"], -1, 1.2)
    assert (fields["guided_decoding_guide_type"], fields["guided_decoding_guide"]) == ("json_schema", schema)
    grammar = msgspec.structs.replace(SPEC, sampling=Sampling(grammar='root ::= "a"'))
    assert fields_of(grammar, "v1", model())["guided_decoding_guide_type"] == "ebnf_grammar"


@pytest.mark.parametrize(
    ("missing", "sampling", "named"),
    [
        ("random_seed", Sampling(), "random_seed"),
        ("top_k", Sampling(), "top_k"),
        ("end_id", Sampling(ignore_eos=True), "end_id"),
        ("repetition_penalty", Sampling(repeat_penalty=1.3), "repetition_penalty"),
        ("guided_decoding_guide", Sampling(grammar='root ::= "a"'), "guided_decoding_guide"),
    ],
)
@pytest.mark.req("ORCH-4462")
def test_a_task_that_needs_an_input_which_the_model_lacks_is_refused(
    missing: str, sampling: Sampling, named: str
) -> None:
    """Triton would drop it without a word, and the text would not be what was asked for."""
    lacking = model(inputs=model().inputs - {missing})
    with pytest.raises(UnservableError, match=named):
        fields_of(msgspec.structs.replace(SPEC, sampling=sampling), "v1", lacking)


@pytest.mark.req("ORCH-4462")
def test_what_is_neutral_need_not_be_declared_and_new_names_are_known() -> None:
    """A greedy task needs no seed and no penalty; newer models call the seed `seed` and the stream `streaming`."""
    bare = model(inputs=frozenset({"text_input", "max_tokens", "top_k"}))
    assert fields_of(SPEC, "greedy-v1", bare) == {"text_input": "hi", "max_tokens": 5, "top_k": 1}
    renamed = model(inputs=model().inputs - {"random_seed", "stream"} | {"seed", "streaming"})
    fields = fields_of(SPEC, "v1", renamed)
    assert (fields["seed"], fields["streaming"], "random_seed" in fields) == (7, True, False)


@pytest.mark.req("ORCH-4171")
def test_seeds_have_64_bits() -> None:
    """The greatest is taken, the next refused."""
    fields_of(msgspec.structs.replace(SPEC, seed=SEED_LIMIT - 1), "v1", model())
    with pytest.raises(UnservableError, match="seed"):
        fields_of(msgspec.structs.replace(SPEC, seed=SEED_LIMIT), "v1", model())


@pytest.mark.req("ORCH-4213", "ORCH-4273")
def test_gauges_of_the_model_are_read() -> None:
    """The recorded exposition is understood; where a server has several models, only those that are asked for count."""
    exposition = parse(recorded("metrics")).body
    assert read_gauges(exposition, frozenset({"tensorrt_llm_bls"})) == Gauges(0, 0.0)
    text = (
        b'nv_trt_llm_request_metrics{model="a",request_type="active",version="1"} 2\n'
        b'nv_trt_llm_request_metrics{model="a",request_type="max",version="1"} 8\n'
        b'nv_trt_llm_request_metrics{model="b",request_type="active",version="1"} 3\n'
        b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="a",version="1"} 5\n'
        b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="a",version="1"} 20\n'
        b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="a",version="1"} x\n'
    )
    assert read_gauges(text, frozenset({"a"})) == Gauges(2, 0.25)
    assert read_gauges(text, frozenset({"b"})) == Gauges(3, None)
    assert read_gauges(text, frozenset({"ensemble"})) == Gauges(5, 0.25)
    assert read_gauges(b"nv_inference_count 1\n", frozenset()) is None


@pytest.mark.req("ORCH-4222")
def test_a_url_names_the_model_and_the_port_of_the_metrics() -> None:
    """Both have a default; a port that is none is refused."""
    replica = TritonReplica(parse_endpoint("http://gpu:8000/edge/v2/models/llama?metrics_port=8012"))
    assert (replica.model, replica.endpoint.url) == ("llama", "http://gpu:8000/edge")
    assert TritonReplica(parse_endpoint("http://gpu:8000")).model == MODEL
    assert (metrics_port("metrics_port=8012"), metrics_port("")) == (8012, METRICS_PORT)
    for query in ("metrics_port=x", "metrics_port=0", "metrics_port=70000"):
        with pytest.raises(EngineError, match="no port"):
            metrics_port(query)
