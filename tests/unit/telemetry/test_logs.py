"""Log lines: complete, bounded, without content, and never in the way."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.adapters.log_lines import REQUIRED, WITHHELD, json_line, text_line
from orchqueue.adapters.log_sink import QUEUE_LIMIT_LINES, LogSink
from orchqueue.adapters.telemetry import MetricsTelemetry
from orchqueue.core.events import DeviceFigures, ReplicaFacts
from orchqueue.core.snapshots import PoolPicture, ReplicaPicture
from orchqueue.ports.telemetry import LogValue, Telemetry
from tests.waiting import until


class _Clock:
    def now_ms(self) -> int:
        return 1_700_000_000_123


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Give a file and its descriptor."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield path, descriptor
    os.close(descriptor)


def lines_of(path: Path) -> list[dict[str, object]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.req("ORCH-4037")
def test_every_required_field_is_in_every_line(log_file: tuple[Path, int]) -> None:
    """What does not apply is null, what applies has its value, and what is extra comes along."""
    path, descriptor = log_file
    telemetry: Telemetry = MetricsTelemetry(_Clock(), descriptor=descriptor)
    telemetry.log("warning", "task_ended", {"job_id": "9f", "correlation_id": "c-1", "seed": 7, "outcome": "poison"})
    assert isinstance(telemetry, MetricsTelemetry)
    telemetry.close()
    (line,) = lines_of(path)
    assert list(line)[:3] == ["ts", "level", "event"]
    assert set(REQUIRED) <= set(line)
    assert len(REQUIRED) == 25
    assert (line["ts"], line["level"], line["event"]) == ("2023-11-14T22:13:20.123Z", "warning", "task_ended")
    assert (line["job_id"], line["correlation_id"], line["seed"], line["outcome"]) == ("9f", "c-1", 7, "poison")
    assert line["pool_id"] is None


@pytest.mark.req("ORCH-4196", "ORCH-4278")
@pytest.mark.parametrize("form", [json_line, text_line])
def test_content_and_credentials_are_never_written(form: object) -> None:
    """Whatever carries a name of content or of a credential is left out of both forms."""
    assert callable(form)
    line = form(0, "info", "x", dict.fromkeys(WITHHELD, "SECRET") | {"job_id": "1"})
    assert b"SECRET" not in line
    assert {"prompt", "messages", "text", "content", "output", "api_key", "authorization"} <= WITHHELD


@pytest.mark.req("ORCH-4278")
def test_no_call_in_the_tree_logs_content() -> None:
    """No source line hands a prompt or an output to a log call."""
    root = Path(__file__).resolve().parents[3] / "src" / "orchqueue"
    suspicious = []
    for path in root.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if (".log(" in line or "Note(" in line) and any(
                word in line for word in (".prompt", ".text", ".messages", ".texts", ".inputs", ".content")
            ):
                suspicious.append(f"{path.name}:{number}")
    assert suspicious == []


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=600) | st.characters(),
        max_size=6,
    )
)
@pytest.mark.req("ORCH-4037")
def test_any_field_makes_one_valid_line(fields: dict[str, LogValue]) -> None:
    """Nothing that a client can put into a value breaks a line in two or makes it unreadable."""
    clean = {name.encode("utf-8", "replace").decode(): value for name, value in fields.items()}
    line = json_line(0, "info", "x", clean)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["event"] == "x"
    text = text_line(0, "info", "x", clean)
    assert text.count(b"\n") == 1


def test_text_lines_cannot_be_forged() -> None:
    """A value with line breaks, quotes or terminal codes stays inside its quotes."""
    line = text_line(0, "info", "request", {"path": 'a\n2023 error "x" \x1b[31m', "job_id": None, "ok": True, "n": 3})
    assert line == (b'1970-01-01T00:00:00.000Z info    request path="a\\n2023 error \\"x\\" \\u001b[31m" ok=true n=3\n')


def test_lines_below_the_level_are_not_written(log_file: tuple[Path, int]) -> None:
    """Level warning leaves info out."""
    path, descriptor = log_file
    telemetry = MetricsTelemetry(_Clock(), level="warning", log_format="text", descriptor=descriptor)
    for level in ("info", "warning", "error"):
        telemetry.log(level, f"event_{level}", {})
    telemetry.close()
    assert [line.split()[2] for line in path.read_text().splitlines()] == ["event_warning", "event_error"]


def test_a_line_that_cannot_be_written_says_so_instead_of_raising(log_file: tuple[Path, int]) -> None:
    """A fault of the caller becomes a line about it."""
    path, descriptor = log_file
    telemetry = MetricsTelemetry(_Clock(), descriptor=descriptor)
    telemetry.log("info", "odd", {"job_id": object()})  # type: ignore[dict-item]
    telemetry.log("info", "odder", None)  # type: ignore[arg-type]
    telemetry.close()
    first, second = lines_of(path)
    assert str(first["job_id"]).startswith("<object object")
    assert second["event"] == "log_line_unwritable"
    assert "odder" in str(second["detail"])


@pytest.mark.req("ORCH-4279")
def test_a_reader_that_does_not_read_holds_up_nobody() -> None:
    """With a full pipe lines are dropped and counted; the caller never waits."""
    reader, writer = os.pipe()
    sink = LogSink(writer)
    for _ in range(QUEUE_LIMIT_LINES + 3000):
        sink.write(b"x" * 99 + b"\n")
    assert sink.dropped_lines > 0
    os.close(reader)
    until(lambda: sink.flush(0.01), what="the writer to give up on the closed pipe")
    sink.close()
    os.close(writer)


@pytest.mark.req("ORCH-4279")
def test_a_closed_output_is_survived(log_file: tuple[Path, int]) -> None:
    """Standard error may be closed before the daemon starts."""
    reader, writer = os.pipe()
    os.close(reader)
    sink = LogSink(writer)
    sink.write(b"lost\n")
    until(sink.flush, what="the writer to give up on the closed pipe")
    assert sink.dropped_lines == 1
    sink.close()
    os.close(writer)
    sink.write(b"after the end\n")
    assert sink.dropped_lines == 2


@pytest.mark.req("ORCH-4279")
def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    """A real limit on file size: lines are dropped, the process goes on and ends well."""
    script = """
import os, resource, sys
from orchqueue.adapters.log_sink import LogSink
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sink = LogSink(descriptor)
for _ in range(100):
    sink.write(b"y" * 99 + b"\\n")
sink.close()
print(sink.dropped_lines)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 1
    assert (tmp_path / "log").stat().st_size <= 1000
    assert resource.RLIMIT_FSIZE


def _pool(kv_usage_ratio: float | None, depth: int, replica_state: str = "ready") -> PoolPicture:
    facts = ReplicaFacts("1.0", "d", 1, 2048, True, 1, 1, pid=os.getpid())
    replica = ReplicaPicture(
        "p-0", replica_state, 1, 1, 0, None, facts, kv_usage_ratio, 1 << 30, None, None,
        devices=(DeviceFigures("cuda:0", 37, 1 << 30, None), DeviceFigures("cuda:1", None, 1 << 20, None)),
    )  # fmt: skip
    seen = int(replica_state == "ready")
    return PoolPicture(
        "p", "llamacpp", "m", 2048, None, True, True, ("completion",), "v1", "cuda", "serving", True, True, None, 256,
        {"interactive": depth, "batch": 0}, {}, (replica,), "set", first_tokens_in_time=99 * seen,
        first_tokens_seen=100 * seen, capacities={"interactive": 128},
    )  # fmt: skip


@pytest.mark.req("ORCH-4263", "ORCH-4272", "ORCH-4273", "ORCH-4280", "ORCH-4286")
def test_gauges_come_from_the_cores_pictures(log_file: tuple[Path, int]) -> None:
    """Depths, KV use, memory and attainment are as the picture says at the moment of the scrape."""
    telemetry = MetricsTelemetry(_Clock(), descriptor=log_file[1])
    text = telemetry.render([_pool(0.25, 4)]).decode()
    labels = 'engine="llamacpp",engine_version="1.0",pool_id="p"'
    assert f'queue_depth{{{labels},priority="interactive"}} 4.0' in text
    assert f'queue_depth{{{labels},priority="batch"}} 0.0' in text
    assert f'kv_cache_usage_ratio{{{labels},replica_id="p-0"}} 0.25' in text
    assert f'vram_used_bytes{{device="cuda:0",{labels},replica_id="p-0"}} 1.073741824e+09' in text
    assert f'vram_used_bytes{{device="cuda:1",{labels},replica_id="p-0"}} 1.048576e+06' in text
    assert f'gpu_utilization{{device="cuda:0",{labels},replica_id="p-0"}} 37.0' in text
    assert text.count("gpu_utilization{") == 1
    assert f'queue_capacity{{{labels},priority="interactive"}} 128.0' in text
    assert f'replicas{{{labels},state="ready"}} 1.0' in text
    assert f'replicas{{{labels},state="broken"}} 0.0' in text
    assert 'slo_attainment_ratio{priority="interactive",slo="first_token"} 0.99' in text
    (resident,) = [line for line in text.splitlines() if line.startswith("host_ram_used_bytes{")]
    assert float(resident.rpartition(" ")[2]) > 1 << 20
    assert "build_info{version=" in text
    later = telemetry.render([_pool(0.5, 1, "backoff")]).decode()
    assert "kv_cache_usage_ratio{" not in later
    assert "host_ram_used_bytes{" not in later
    assert "vram_used_bytes{" not in later
    assert "gpu_utilization{" not in later
    assert f'replicas{{{labels},state="backoff"}} 1.0' in later
    assert "slo_attainment_ratio{" not in later
    assert f'queue_depth{{{labels},priority="interactive"}} 1.0' in later
    telemetry.close()


def test_a_metric_that_is_not_in_the_contract_is_logged(log_file: tuple[Path, int]) -> None:
    """A wrong name in an effect shows in the log and stops nothing."""
    path, descriptor = log_file
    telemetry = MetricsTelemetry(_Clock(), descriptor=descriptor)
    telemetry.count("nope_total", (), 1)
    telemetry.close()
    (line,) = lines_of(path)
    assert line["event"] == "metric_unknown"
    assert "nope_total" in str(line["detail"])
