"""What a configuration means to the core, and how it is shown."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import jsonschema_rs
import msgspec
import pytest
from ruamel.yaml import YAML

from orchqueue.adapters.processes.llamacpp_launch import LaunchArgs
from orchqueue.config.loader import embedded_default, embedded_text, load, parse
from orchqueue.config.masking import MASK, masked, render_yaml
from orchqueue.config.problems import ConfigError
from orchqueue.config.rules import ENGINE_ARGS
from orchqueue.config.settings import launch_digest, to_settings
from orchqueue.config.types import Config, Pool
from orchqueue.core.settings import ClassSettings, Quotas, Settings, TenantSettings
from tools.gen_config_schema import config_schema

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "orchqueue.yaml"

POOL = "{id: a, engine: llamacpp, model: 'bundled:m', allow_cpu: true%s}"


def config_of(extra: str = "", rest: str = "") -> Config:
    """Load a small configuration with a few fields of interest."""
    return parse(f"pools: [{POOL % extra}]\n{rest}".encode(), "test.yaml", "/")


def pool_of(extra: str) -> Pool:
    """Give the one pool of such a configuration."""
    return config_of(extra).pools[0]


@pytest.mark.req("ORCH-1101", "ORCH-4034")
def test_the_embedded_default_is_two_strict_replicas_of_the_bundled_model() -> None:
    """Without a file the daemon serves one small real model on the CPU, openly."""
    settings = to_settings(embedded_default())
    (pool,) = settings.pools
    assert (pool.pool_id, pool.engine, pool.model_ref) == ("smollm2", "llamacpp", "bundled:smollm2-135m-instruct-q4_1")
    assert [replica.replica_id for replica in pool.replicas] == ["smollm2-0", "smollm2-1"]
    assert (pool.allow_cpu, pool.device_class, pool.slots, pool.strict) == (True, "cpu", 1, True)
    assert (pool.ctx, pool.capacity) == (2048, 256)
    assert embedded_default().server.host == "127.0.0.1"


def test_defaults_of_the_file_are_the_defaults_of_the_core() -> None:
    """A file that says nothing decides nothing: both sides name the same values."""
    settings = to_settings(config_of())
    pool = settings.pools[0]
    plain = msgspec.structs.replace(pool, launch_digest="")
    from_core = type(pool)(pool.pool_id, pool.engine, pool.model_ref, pool.replicas, pool.ctx, allow_cpu=True)
    assert plain == from_core
    assert settings == Settings(pools=settings.pools)


@pytest.mark.req("ORCH-3030")
def test_every_field_reaches_the_core() -> None:
    """Each value that is written is found again where the core reads it."""
    text = """\
pools:
  - id: p
    engine: llamacpp
    model: bundled:m
    quant: q8
    ctx: 4096
    devices: ["cuda:0", "cuda:1"]
    tensor_split: [0.25, 0.75]
    replicas: 3
    slots: 2
    require_same_engine_version: false
    sampler_profile_version: greedy-v1
    queue: {capacity: 50, full_policy: drop-lru}
    admission:
      priorities:
        - {name: batch, weight: 3, queue_capacity: 20, full_policy: shed-low-priority, rate_limit_rps: 1.5}
    timeouts: {wall_ms: 1, idle_ms: 2, first_token_ms: 3}
    supervision:
      backoff: {initial_ms: 4, max_ms: 5, jitter_percent: 6, stable_after_ms: 7}
      breaker: {failures: 8, open_ms: 9}
      restarts_per_minute: 10
    retry: {max_attempts: 11}
retention: {interactive_s: 13, batch_s: 14, max_bytes: 15}
sessions: {ttl_ms: 16000, max_turns: 7}
"""
    settings = to_settings(parse(text.encode(), "test.yaml", "/"))
    pool = settings.pools[0]
    assert (pool.quant, pool.ctx, pool.slots, pool.strict) == ("q8", 4096, 2, False)
    assert [replica.devices for replica in pool.replicas] == [("cuda:0", "cuda:1")] * 3
    assert (pool.device_class, pool.require_same_engine_version, pool.sampler_profile_version) == (
        "cuda",
        False,
        "greedy-v1",
    )
    assert pool.capacity == 50
    assert pool.classes == (
        ClassSettings("interactive", 8, 50, "drop-lru", None),
        ClassSettings("batch", 3, 20, "shed-low-priority", 1.5),
    )
    assert msgspec.structs.astuple(pool.timeouts) == (1, 2, 3)
    assert msgspec.structs.astuple(pool.supervision) == (4, 5, 6, 7, 8, 9, 10)
    assert pool.max_attempts == 11
    assert msgspec.structs.astuple(settings.retention) == (13_000, 14_000, 15)
    assert msgspec.structs.astuple(settings.sessions) == (16_000, 7)


@pytest.mark.req("ORCH-4219")
def test_an_external_pool_has_a_replica_for_each_url() -> None:
    """Replica n belongs to URL n; what device it runs on is not ours to claim."""
    text = """\
pools:
  - id: far
    engine: llamacpp
    model: repo:org/model
    launch: {mode: external, urls: ["http://a:1", "https://b", "http://c:3"]}
"""
    (pool,) = to_settings(parse(text.encode(), "test.yaml", "/")).pools
    assert [replica.replica_id for replica in pool.replicas] == ["far-0", "far-1", "far-2"]
    assert [replica.url for replica in pool.replicas] == ["http://a:1", "https://b", "http://c:3"]
    assert (pool.device_class, pool.allow_cpu) == ("external", False)


@pytest.mark.req("ORCH-3047")
@pytest.mark.parametrize(
    "extra",
    [
        ", ctx: 4096",
        ", slots: 2",
        ", determinism: best_effort",
        ", launch: {args: {threads: 2}}",
        ", launch: {args: {threads: 3}}",
        ", launch: {env: {A: b}}",
        ", launch: {env: {A: c}}",
        ", launch: {mode: external, urls: ['http://h:1']}",
    ],
)
def test_what_could_change_the_output_changes_the_launch_digest(extra: str) -> None:
    """Pools whose engines run with other flags are never of one replica set."""
    plain, other = launch_digest(pool_of("")), launch_digest(pool_of(extra))
    assert plain != other
    assert other == launch_digest(pool_of(extra))
    assert len(other) == 64


@pytest.mark.req("ORCH-3047")
def test_what_cannot_change_the_output_leaves_the_launch_digest_alone() -> None:
    """Siblings may differ in name, queue and number of replicas."""
    assert launch_digest(pool_of("")) == launch_digest(pool_of(", replicas: 3, queue: {capacity: 9}"))
    one = pool_of(", launch: {args: {threads: 1, n_batch: 2}}")
    two = pool_of(", launch: {args: {n_batch: 2, threads: 1}}")
    assert launch_digest(one) == launch_digest(two)


@pytest.mark.req("ORCH-4309")
def test_tenants_come_with_weight_and_quotas() -> None:
    """Every field reaches the core; what is not told is no limit."""
    rest = """
tenants:
  - id: acme
    weight: 3
    quotas:
      {requests_per_s: 2.5, burst: 7, tokens_per_minute: 100, concurrent_tasks: 4, queued_tasks: 3, kv_mb: 50}
    quotas_per_key: {requests_per_s: 1}
  - id: "*"
"""
    settings = to_settings(config_of(rest=rest))
    acme = TenantSettings("acme", 3, Quotas(2.5, 7, 100, 4, 3, 50), Quotas(requests_per_s=1))
    assert settings.tenants == (acme, TenantSettings("*"))
    assert settings.tenant("acme") == acme
    assert "burst: 7" in render_yaml(config_of(rest=rest))


@pytest.mark.req("ORCH-3031", "ORCH-4196")
def test_the_effective_configuration_is_shown_without_secrets() -> None:
    """Environment values and secret-like arguments are masked, everything else is there, defaults included."""
    config = config_of(", launch: {env: {HF_TOKEN: hunter2, PLAIN: hunter5}, args: {threads: 2}}")
    launched = msgspec.structs.replace(
        config.pools[0].launch, args={"api-key": "hunter3", "threads": 2, "max_tokens": 4, "monkeys": 3}
    )
    config = msgspec.structs.replace(config, pools=(msgspec.structs.replace(config.pools[0], launch=launched),))
    text = render_yaml(config)
    assert "hunter" not in text
    shown = YAML(typ="safe", pure=True).load(text)
    assert shown == masked(config)
    launch = shown["pools"][0]["launch"]
    assert launch["env"] == {"HF_TOKEN": MASK, "PLAIN": MASK}
    assert launch["args"] == {"api-key": MASK, "threads": 2, "max_tokens": MASK, "monkeys": 3}
    assert shown["server"]["limits"]["body_bytes"] == 8 << 20


@pytest.mark.req("ORCH-3031")
def test_the_shown_embedded_default_loads_as_itself() -> None:
    """What `orchestratord config` prints is a file that means the same."""
    config = embedded_default()
    assert parse(render_yaml(config).encode(), "shown.yaml", "/") == config


@pytest.mark.req("ORCH-3030")
def test_the_documented_example_is_good_and_uses_every_section() -> None:
    """The example loads as it stands and leaves no section of the file unshown."""
    config = load(EXAMPLE)
    assert len(config.pools) == 2
    text = EXAMPLE.read_text(encoding="utf-8")
    for section in set(Config.__struct_fields__) - {"compat"}:
        assert f"{section}:" in text or section == "model_dir", f"the example does not show {section}"


@pytest.mark.req("ORCH-3030")
def test_the_generated_schema_agrees_with_the_loader() -> None:
    """The committed schema is current, takes what the loader takes, and refuses what it refuses for its shape."""
    committed = (ROOT / "contracts" / "schemas" / "config.schema.json").read_text(encoding="utf-8")
    assert committed == config_schema(), "run `make gen`"
    schema = jsonschema_rs.validator_for(json.loads(committed))
    for text in (embedded_text(), EXAMPLE.read_text(encoding="utf-8")):
        assert schema.is_valid(YAML(typ="safe", pure=True).load(text))
    for extra in (", colour: red", ", slots: 0", ", slots: '1'", ", queue: {full_policy: none}", ", devices: [gpu]"):
        assert not schema.is_valid(YAML(typ="safe", pure=True).load(f"pools: [{POOL % extra}]")), extra
        with pytest.raises(ConfigError):
            config_of(extra)


def test_the_flags_that_the_file_takes_are_those_that_the_adapter_takes() -> None:
    """A flag is refused when the file is read, not when the engine is launched."""
    assert set(ENGINE_ARGS["llamacpp"]) == set(LaunchArgs.__struct_fields__)
    assert set(ENGINE_ARGS) == {"llamacpp"} < set(get_args(get_type_hints(Pool)["engine"]))
