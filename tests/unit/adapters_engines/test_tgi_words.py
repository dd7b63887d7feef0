"""How a task is said in TGI's words, and what its `/info` and `/metrics` mean."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchqueue.adapters.engines.sampling import UnservableError
from orchqueue.adapters.engines.tgi_gauges import read_gauges
from orchqueue.adapters.engines.tgi_messages import Info
from orchqueue.adapters.engines.tgi_sampling import SEED_LIMIT, generate_params
from orchqueue.core.profiles import PROFILES
from orchqueue.core.request import Sampling, TaskSpec

SAMPLERS = {"temperature", "top_p", "top_k", "typical_p"}


def params(profile: str = "v1", **wishes: Any) -> dict[str, object]:
    """Say a task."""
    spec = TaskSpec(prompt="x", seed=1, sampling=msgspec.convert(wishes, Sampling))
    return dict(generate_params(spec, profile))


@pytest.mark.req("ORCH-4221", "ORCH-4172")
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_a_mapping(profile: str) -> None:
    """Each profile is served, with the penalties switched off by name."""
    said = params(profile)
    assert said["repetition_penalty"] == 1.0
    assert said["frequency_penalty"] == 0.0
    assert said["watermark"] is False


@pytest.mark.req("ORCH-4221")
def test_greedy_names_no_sampler() -> None:
    """Any sampler that is named would make TGI sample, so greedy decoding names none, whatever the task says of them."""
    for said in (params("greedy-v1"), params("v1", temperature=0.0, top_k=5, top_p=0.5)):
        assert said["do_sample"] is False
        assert not SAMPLERS & said.keys()


@pytest.mark.req("ORCH-4221", "ORCH-4061")
def test_samplers_that_are_off_are_left_out() -> None:
    """TGI refuses top_p 1 and top_k 0, which switch them off."""
    said = params(temperature=1.0, top_p=1.0, top_k=0)
    assert said["do_sample"] is True
    assert SAMPLERS & said.keys() == {"temperature"}
    assert params()["top_k"] == PROFILES["v1"].top_k


@pytest.mark.req("ORCH-4432")
@pytest.mark.parametrize("wish", [{"min_p": 0.1}, {"ignore_eos": True}, {"grammar": 'root ::= "a"'}])
def test_what_it_does_not_offer_is_refused_by_name(wish: dict[str, Any]) -> None:
    """Asking for what TGI lacks is refused before anything is sent."""
    with pytest.raises(UnservableError, match=next(iter(wish))):
        params(**wish)


@pytest.mark.req("ORCH-4171")
def test_the_greatest_seed_is_said_whole() -> None:
    """Seeds are unsigned numbers of 64 bits."""
    spec = TaskSpec(prompt="x", seed=SEED_LIMIT - 1)
    assert str(2**64 - 1).encode() in msgspec.json.encode(generate_params(spec, "v1"))


@pytest.mark.req("ORCH-4063")
def test_a_schema_is_passed_as_it_came() -> None:
    """The schema goes out byte for byte, as a grammar of its kind."""
    said = params(json_schema='{"b": 1, "a": 2.50}')
    assert msgspec.json.encode(said["grammar"]) == b'{"type":"json","value":{"b": 1, "a": 2.50}}'


def test_what_info_promises() -> None:
    """The context is what prompt and answer may have together; older and newer names of the longest prompt count."""
    assert Info("m", max_total_tokens=2048, max_input_tokens=2047).ctx == 2048
    assert Info("m", max_total_tokens=2048, max_input_length=1024).ctx == 1025
    assert Info("m", max_total_tokens=2048).ctx == 2048
    assert Info("m", "3.3.6", sha="0123456789ab").engine_version == "tgi-3.3.6+01234567"
    assert Info("m", "3.3.6").engine_version == "tgi-3.3.6"


EXPOSITION = b"""# HELP tgi_queue_size Current queue size
# TYPE tgi_queue_size gauge
tgi_queue_size 0

# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 0
tgi_batch_inference_count{method="prefill"} 7
tgi_batch_inference_count{method="decode"} 40
tgi_batch_inference_success{method="prefill"} 6
tgi_batch_inference_success{method="decode"} 39
tgi_batch_inference_failure{method="decode"} 1
tgi_batch_inference_duration_bucket{method="decode",le="0.1"} 3
tgi_batch_current_max_tokens 300
tgi_batch_total_tokens 1200
tgi_queue_size_of_somebody_else 9
"""


@pytest.mark.req("ORCH-4213", "ORCH-4273")
def test_a_prompt_that_is_read_is_work() -> None:
    """While a prompt is read neither queue nor batch show it: a call that began and did not end does."""
    gauges = read_gauges(EXPOSITION)
    assert gauges is not None
    assert (gauges.queued, gauges.batched, gauges.calls_begun, gauges.calls_ended) == (0, 0, 47, 46)
    assert not gauges.idle
    assert gauges.kv_usage_ratio == 0.25
    done = read_gauges(EXPOSITION.replace(b'success{method="prefill"} 6', b'success{method="prefill"} 7'))
    assert done is not None
    assert done.idle


@pytest.mark.req("ORCH-4213")
@pytest.mark.parametrize("line", [b"tgi_queue_size 1", b"tgi_batch_current_size 2"])
def test_what_waits_or_is_in_the_batch_is_work(line: bytes) -> None:
    """Either gauge alone shows work."""
    gauges = read_gauges(line + b"\n")
    assert gauges is not None
    assert not gauges.idle


def test_a_router_that_served_nothing_yet_is_idle() -> None:
    """What was never counted does not show; then nothing was ever done, and no KV share is known."""
    gauges = read_gauges(b"\n")
    assert gauges is not None
    assert gauges.idle
    assert gauges.kv_usage_ratio is None


@pytest.mark.req("ORCH-4453")
@pytest.mark.parametrize(
    "text", [b"<html></html>", b"vllm:num_requests_running 0", b"tgi_queue_size many", b"tgi_request_success 3"]
)
def test_what_does_not_tell_of_work_says_nothing(text: bytes) -> None:
    """Another page in its place, or a backend that served and counts no runs, is not taken for an idle engine."""
    assert read_gauges(text) is None
