"""Every fault of a file is told at once, with its line, column, path and a way out."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.config.document import DEPTH_LIMIT, SIZE_LIMIT_BYTES
from orchqueue.config.loader import load, parse, with_overrides
from orchqueue.config.problems import ConfigError, Problem

pytestmark = pytest.mark.req("ORCH-3030")

POOL = "{id: a, engine: llamacpp, model: 'bundled:m', allow_cpu: true%s}"


def problems_of(text: str | bytes) -> list[Problem]:
    """Give what is wrong with a text, in the order of its lines."""
    data = text.encode() if isinstance(text, str) else text
    try:
        parse(data, "test.yaml", "/nonexistent")
    except ConfigError as error:
        return list(error.problems)
    return []


def told(text: str | bytes) -> list[str]:
    """Give the problems as `line:column path: message`."""
    return [f"{found.line}:{found.column} {found.path}: {found.message}" for found in problems_of(text)]


@pytest.mark.req("ORCH-4199", "ORCH-4200")
def test_many_faults_of_every_kind_are_told_together_with_their_places() -> None:
    """Syntax apart, no fault hides another: shapes, ranges, names, rules and files in one answer."""
    text = """\
pools:
  - id: a
    id: again
    engine: lamacpp
    model: file:/nonexistent/m.gguf
    mo_del: x
    replicas: "2"
    slots: 3
    determinism: strict
    devices: [cpu]
    queue: {capacity: 0, full_policy: rejct}
  - id: a
    engine: llamacpp
    model: nothing
    allow_cpu: true
    admission:
      priorities:
        - {name: batch, weight: 0}
        - {name: batch, queue_capacity: 300}
server: {host: 0.0.0.0, port: 99999}
sevrer: 3
"""
    assert told(text) == [
        "3:5 pools[0].id: the field is there twice, first on line 2",
        "4:13 pools[0].engine: must be one of llamacpp, tgi, triton, vllm, got 'lamacpp'",
        "6:5 pools[0].mo_del: unknown field",
        "7:15 pools[0].replicas: must be a whole number, got '2'",
        "9:18 pools[0].determinism: strict cannot be kept with 3 slots",
        "10:14 pools[0].devices: names the CPU, and allow_cpu is not true",
        "11:23 pools[0].queue.capacity: is out of range, got 0",
        "11:39 pools[0].queue.full_policy: must be one of drop-lru, reject, shed-low-priority, got 'rejct'",
        "12:9 pools[1].id: 'a' is also pools[0]",
        "14:12 pools[1].model: is no model reference, got 'nothing'",
        "18:33 pools[1].admission.priorities[0].weight: is out of range, got 0",
        "19:18 pools[1].admission.priorities[1].name: 'batch' is there twice",
        "19:41 pools[1].admission.priorities[1].queue_capacity: 300 is more than the pool's queue holds, 256",
        "20:16 server.host: '0.0.0.0' can be reached from outside, and no keys are asked for",
        "20:31 server.port: is out of range, got 99999",
        "21:1 sevrer: unknown field",
    ]


@pytest.mark.req("ORCH-4309")
def test_faults_of_tenants_are_told() -> None:
    """Names twice or impossible, limits out of range, and a burst of nothing."""
    assert told(
        f"""\
pools: [{POOL % ""}]
tenants:
  - {{id: a, quotas: {{burst: 3}}, quotas_per_key: {{burst: 3, requests_per_s: 1}}}}
  - {{id: a, weight: 0, quotas_per_key: {{concurrent_tasks: 0, burst: 2, requests_per_s: 0}}}}
  - id: "*"
  - id: "*"
"""
    ) == [
        "3:29 tenants[0].quotas.burst: has no effect without requests_per_s",
        "4:10 tenants[1].id: 'a' is also tenants[0]",
        "4:21 tenants[1].weight: is out of range, got 0",
        "4:59 tenants[1].quotas_per_key.concurrent_tasks: is out of range, got 0",
        "4:88 tenants[1].quotas_per_key.requests_per_s: is out of range, got 0",
        "6:9 tenants[3].id: '*' is also tenants[2]",
    ]
    wrong = "tenants: [{id: a b, quotas: {tokens: 3, kv_mb: x}}, {quotas: {burst: 2}}, {id: a b}, {id: a}, {id: a}]"
    assert told(f"pools: [{POOL % ''}]\n{wrong}\n") == [
        "2:16 tenants[0].id: has a form that is not allowed, got 'a b'",
        "2:30 tenants[0].quotas.tokens: unknown field",
        "2:48 tenants[0].quotas.kv_mb: must be a whole number, got 'x'",
        "2:53 tenants[1].id: is missing",
        "2:70 tenants[1].quotas.burst: has no effect without requests_per_s",
        "2:80 tenants[2].id: has a form that is not allowed, got 'a b'",
        "2:100 tenants[4].id: 'a' is also tenants[3]",
    ]


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("sevrer: {}", "did you mean 'server'?"),
        ("zzz: 1", "known here: pools, server, auth"),
        ("server: {port: eighty}", "digits without quotes"),
        ("logging: {level: warn}", "did you mean 'warning'?"),
    ],
)
@pytest.mark.req("ORCH-4118", "ORCH-4199")
def test_each_problem_says_how_to_mend_it(line: str, fix: str) -> None:
    """The way out stands beside the fault."""
    (problem,) = problems_of(f"pools: [{POOL % ''}]\n{line}\n")
    assert fix in problem.fix
    assert problem.line == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"a: [\n", "not YAML"),
        (b"pools:\n\t- id: x\n", "not YAML"),
        (b"- 1\n", "must be a mapping of fields, got a list"),
        (b"pools: *nowhere\n", "undefined alias"),
        (b"pools: &a [*a]\n", "nested too deep"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"pools: \x00\n", "a character that YAML does not allow"),
        (b"pools: " + b"[" * 20_000, "nested too deep"),
        (b"pools: " + b"{a: " * 10_000, "nested too deep"),
        (b"- " * 3000 + b"x", "nested too deep"),
        (b"pools: !!python/object/apply:os.system [ls]\n", "python/object/apply:os.system is not allowed"),
        (b"--- {pools: []}\n--- {pools: []}\n", "found another document"),
        (b"pools: []\n", "there are no pools"),
        (b"x" * (SIZE_LIMIT_BYTES + 1), "the file has"),
        (b"? [a, b]\n: 1\n", "only plain names can be keys"),
        (b"server: {port: 0x1_0000_0000}\n", "out of range"),
        (b"server: {port: " + b"9" * 6000 + b"}\n", "not a number that can be used"),
        (b"pools: [{admission: {priorities: [{name: batch, rate_limit_rps: .inf}]}}]\n", "not a number"),
    ],
)
@pytest.mark.req("ORCH-4201", "ORCH-4202")
def test_hostile_and_clumsy_texts_are_problems_not_crashes(text: bytes, message: str) -> None:
    """Nothing but a list of problems comes of any text, and quickly."""
    assert any(message in line for line in told(text)), told(text)


@pytest.mark.req("ORCH-4201")
def test_a_tag_is_never_constructed(tmp_path: Path) -> None:
    """A scalar with a foreign tag is refused by name."""
    target = tmp_path / "made"
    text = f"pools: [{POOL % ''}]\nmodel_dir: !!python/object/new:os.mkdir {target}\n"
    assert any("is not allowed here" in line for line in told(text))
    assert not target.exists()


@pytest.mark.req("ORCH-4201")
def test_aliases_cannot_expand_beyond_bounds() -> None:
    """A file of a few hundred bytes cannot become millions of values."""
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1]"]
    for before, name in zip("abcdefg", "bcdefgh", strict=True):
        lines.append(f"{name}: &{name} [" + ", ".join([f"*{before}"] * 8) + "]")
    assert [line for line in told("\n".join(lines)) if "expands too far" in line]


def test_brackets_in_text_are_not_nesting() -> None:
    """A value that is full of brackets is a value."""
    text = f"pools: [{POOL % ''}]\nmodel_dir: '{'[' * 200}'\n"
    assert [line.partition(": ")[2] for line in told(text)] == [f"there is no directory /nonexistent/{'[' * 200}"]


def test_an_alias_that_stays_small_is_allowed() -> None:
    """Sharing one mapping between two pools is what aliases are for."""
    text = """\
pools:
  - {id: a, engine: llamacpp, model: 'bundled:m', allow_cpu: true, timeouts: &t {wall_ms: 9}}
  - {id: b, engine: llamacpp, model: 'bundled:m', allow_cpu: true, timeouts: *t}
"""
    config = parse(text.encode(), "test.yaml", "/")
    assert [pool.timeouts.wall_ms for pool in config.pools] == [9, 9]
    assert DEPTH_LIMIT > 8


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (", devices: ['cuda:0', 'cuda:1'], tensor_split: [0.5, 0.4]", "sums to 0.9"),
        (", devices: ['cuda:0', 'cuda:1'], tensor_split: [1.0]", "has 1 ratios for 2 devices"),
        (", tensor_split: [1.0]", "has 1 ratios for 0 devices"),
        (", devices: [cpu, 'cuda:0']", "mixes the CPU"),
        (", devices: ['cuda:0', 'cuda:0']", "names a device twice"),
        (", devices: ['cuda:0']", "names no cpu"),
        (", devices: [gpu]", "a form that is not allowed"),
        (", launch: {mode: external}", "needs the URL"),
        (", launch: {mode: external, urls: ['http://h:1', 'http://h:1/']}", "the same URL"),
        (", launch: {mode: external, urls: ['ftp://x']}", "must begin with http:// or https://"),
        (", launch: {mode: external, urls: ['h:1']}", "must begin with http:// or https://"),
        (", launch: {mode: external, urls: ['']}", "must begin with http:// or https://"),
        (", launch: {mode: external, urls: ['https://']}", "is no URL"),
        (", launch: {mode: external, urls: ['http://u:p@h:1']}", "user or password"),
        (", launch: {mode: external, urls: ['http://h:1/v1']}", "must end after the port"),
        (", launch: {mode: external, urls: ['http://h:1/v2/models/ensemble']}", "must end after the port"),
        (", launch: {mode: external, urls: ['http://h:x1']}", "is no URL"),
        (", launch: {mode: external, urls: ['http://h:1'], env: {A: b}}", "has no effect"),
        (", replicas: 3, launch: {mode: external, urls: ['http://h:1']}", "is 3, but there are 1 urls"),
        (", launch: {urls: ['http://h:1']}", "only external pools have urls"),
        (", launch: {api_key_env: SOME_KEY}", "only external pools have keys"),
        (", launch: {mode: external, urls: ['http://h:1'], api_key_env: NO_SUCH_KEY}", "is not set"),
        (
            ", launch: {mode: external, urls: ['http://h:1'], api_key_env: sk-1234}",
            "is no name of an environment variable",
        ),
        (", launch: {allow_simulated: true}", "only external pools can be simulated"),
        (", launch: {args: {thread: 2}}", "llamacpp has no such flag"),
        (", launch: {args: {threads: '2'}}", "must be a whole number, got '2'"),
        (", launch: {args: {threads: true}}", "must be a whole number, got true"),
        (", launch: {args: {start_timeout_s: soon}}", "must be a number, got 'soon'"),
        (", launch: {args: {flash_attention: 1}}", "must be true or false, got 1"),
        (", launch: {args: {n_batch: -1}}", "is out of range, got -1"),
        (", launch: {env: {'A B': c}}", "a form that is not allowed"),
        (", supervision: {backoff: {initial_ms: 9, max_ms: 3}}", "is more than max_ms"),
        (", admission: {priorities: [{name: batch, queue_capacity: 257}]}", "more than the pool's queue holds"),
        (", admission: {priorities: [{name: batch}, {name: batch}]}", "'batch' is there twice"),
        (", admission: {priorities: [{name: low}]}", "must be one of batch, interactive"),
        (", model_sha256: abc", "a form that is not allowed"),
        (", sampler_profile_version: v2", "must be one of focused-v1, greedy-v1, v1"),
        (", slots: true", "must be a whole number, got true"),
        (", workloads: []", "names no workload"),
        (", workloads: [embedding, embedding]", "names a workload twice"),
        (", workloads: [embedding, rerank]", "an engine is launched for one workload"),
        (", workloads: [chat]", "must be one of completion, embedding, rerank"),
        (", ctx: 1.5", "must be a whole number"),
    ],
)
@pytest.mark.req("ORCH-3052", "ORCH-4167")
def test_each_rule_of_a_pool_is_checked(extra: str, message: str) -> None:
    """One broken rule, one problem, at the field that breaks it."""
    pool = POOL % extra
    if "cuda" in extra and "cpu" not in message.lower():
        pool = pool.replace(", allow_cpu: true", "")
    found = problems_of(f"pools:\n  - {pool}\n")
    assert [message in problem.message for problem in found] == [True], found
    assert found[0].line == 2
    assert found[0].path.startswith("pools[0].")


@pytest.mark.req("ORCH-1101")
def test_a_pool_never_reaches_the_cpu_by_itself() -> None:
    """Without a device and without allow_cpu there is no pool."""
    (problem,) = problems_of("pools: [{id: a, engine: llamacpp, model: 'bundled:m'}]")
    assert problem.path == "pools[0].devices"
    assert "allow_cpu: true" in problem.fix


@pytest.mark.req("ORCH-4195")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_an_open_address_needs_keys(host: str, tmp_path: Path) -> None:
    """What others can reach is not served without keys, from the file or from the command line."""
    text = f"pools: [{POOL % ''}]\n"
    assert any("no keys are asked for" in line for line in told(f"{text}server: {{host: '{host}'}}\n"))
    plain = parse(text.encode(), "test.yaml", "/")
    with pytest.raises(ConfigError, match="no keys are asked for"):
        with_overrides(plain, host=host)
    keys = tmp_path / "keys.json"
    keys.write_text("{}")
    assert told(f"{text}server: {{host: '{host}'}}\nauth: {{keys_file: {keys}}}\n") == []


@pytest.mark.req("ORCH-4195")
def test_a_keys_file_that_is_wrong_is_not_taken_for_none() -> None:
    """A rule is not judged on a field whose own value is the problem."""
    text = f"pools: [{POOL % ''}]\nserver: {{host: 0.0.0.0}}\nauth: {{keys_file: 3}}\n"
    assert told(text) == ["3:19 auth.keys_file: must be text, got 3"]


def test_a_command_line_port_out_of_range_is_refused() -> None:
    """Overrides pass the same checks as the file."""
    plain = parse(f"pools: [{POOL % ''}]".encode(), "test.yaml", "/")
    assert with_overrides(plain, port=0).server.port == 0
    assert with_overrides(plain, host="::1").server.host == "::1"
    with pytest.raises(ConfigError, match=r"server\.port: is out of range"):
        with_overrides(plain, port=70_000)


def test_files_are_looked_for_from_the_configurations_own_directory(tmp_path: Path) -> None:
    """Relative paths mean the same wherever the daemon is started."""
    (tmp_path / "m.gguf").write_bytes(b"x")
    (tmp_path / "models").mkdir()
    path = tmp_path / "c.yaml"
    pool = "{id: a, engine: llamacpp, model: 'file:m.gguf', allow_cpu: true}"
    path.write_text(f"pools: [{pool}]\nmodel_dir: models\njournal: {{path: j.sqlite}}\nexplain: {{file: d}}\n")
    config = load(path)
    assert config.pools[0].model == f"file:{tmp_path}/m.gguf"
    assert config.model_dir == str(tmp_path / "models")
    assert config.journal.path == str(tmp_path / "j.sqlite")
    assert config.explain.file == str(tmp_path / "d")


@pytest.mark.req("ORCH-4325")
@pytest.mark.parametrize("other", ["journal: {path: /var/d}", "journal: {path: /var/d.1}", "auth: {keys_file: /var/d}"])
def test_decisions_need_a_file_of_their_own(other: str) -> None:
    """A file that holds something else, or that the predecessor would replace, is a problem."""
    text = f"pools: [{POOL % ''}]\nexplain: {{file: /var/d}}\n{other}\n"
    assert "explain.file" in [problem.path for problem in problems_of(text)]


def test_files_that_cannot_be_read_are_problems(tmp_path: Path) -> None:
    """Certificates and keys must be there before anything starts; a model's file costs its own pool only."""
    os.mkfifo(tmp_path / "pipe")
    text = f"""\
pools: [{{id: a, engine: llamacpp, model: 'file:{tmp_path}/pipe', allow_cpu: true}}]
server: {{tls: {{cert: {tmp_path}/no.pem, key: {tmp_path}}}}}
auth: {{keys_file: {tmp_path}/pipe}}
model_dir: {tmp_path}/no
"""
    assert [problem.path for problem in problems_of(text)] == [
        "server.tls.cert",
        "server.tls.key",
        "auth.keys_file",
        "model_dir",
    ]
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.req("ORCH-4200")
def test_compat_lets_unknown_fields_pass_and_tells_of_them() -> None:
    """With `compat: true` a newer file still starts an older daemon, and other faults still count."""
    warned: list[Problem] = []
    text = f"compat: true\npools: [{POOL % ', colour: red'}]\nflavour: sweet\n"
    config = parse(text.encode(), "test.yaml", "/", warned.append)
    assert config.compat
    assert [problem.path for problem in warned] == ["pools[0].colour", "flavour"]
    assert told(text + "server: {port: -1}\n") == ["4:16 server.port: is out of range, got -1"]


def test_a_problem_becomes_a_fault_with_a_json_pointer() -> None:
    """A reload over HTTP tells the same problems."""
    problem = problems_of(f"pools: [{POOL % ''}]\nserver: {{port: -1}}")[0]
    fault = problem.fault()
    assert fault.pointer == "/server/port"
    assert fault.message.startswith("line 2: is out of range")
    assert json.dumps(fault.message)


@given(st.binary(max_size=300))
@pytest.mark.req("ORCH-4201")
def test_no_bytes_crash_the_loader(data: bytes) -> None:
    """Any bytes are either a configuration or a list of problems."""
    assert problems_of(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["pools", "id", "queue", "server", "launch", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_no_json_value_crashes_the_loader(value: object) -> None:
    """Any tree of values is either a configuration or a list of problems; JSON is YAML."""
    text = json.dumps(value)
    for problem in problems_of(text):
        assert problem.message
        assert problem.render("f")


@pytest.mark.req("ORCH-4196")
@pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variable holds is checked, and never shown; what stands in the file is not shown either."""
    monkeypatch.setenv("FAR_KEY", value)
    far = ", launch: {mode: external, urls: ['http://h:1'], api_key_env: %s}"
    for written, message in (("FAR_KEY", "holds no key"), ("sk-1234", "is no name")):
        (problem,) = problems_of(f"pools: [{POOL % (far % written)}]")
        assert (problem.path, problem.line) == ("pools[0].launch.api_key_env", 1)
        assert message in problem.message
        assert not [part for part in (value, "sk-1234") if part in problem.render("test.yaml")]
