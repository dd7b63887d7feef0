"""Prometheus's own checker on what we expose and on the alert rules that we ship; each rule fires and stays silent where it should."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchqueue.adapters.metrics import read_contract
from tests.metrics.alert_cases import CASES, Case
from tests.metrics.conftest import Told
from tools.metrics_lint import CONTRACT_PATH
from tools.promtool import find

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
ALERTS = DEPLOY / "alerts.yml"
CONTRACT = read_contract(CONTRACT_PATH.read_bytes())

# The first of them may have to fetch promtool.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Give promtool; where there is none and none can be fetched, the error says what to install."""
    return find()


def run(promtool: Path, *words: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run([promtool, *words], input=text, capture_output=True, text=True, check=False, cwd=DEPLOY)


def rules() -> list[dict[str, Any]]:
    """Read the shipped rules."""
    document = YAML(typ="safe", pure=True).load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def complaints(promtool: Path, text: str) -> set[str]:
    """Lint an exposition and keep what is not the price of names that users were promised: those in ms."""
    done = run(promtool, "check", "metrics", text=text)
    assert done.returncode in (0, 3), done.stderr
    promised = {metric.name for metric in CONTRACT.metrics if metric.unit == "ms"}
    return {
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not (line.endswith("should not contain abbreviated units") and line.split(" ")[0] in promised)
    }


@pytest.mark.req("ORCH-4046", "ORCH-4024")
@pytest.mark.real_engine
def test_promtool_accepts_the_live_exposition(promtool: Path, told: Told) -> None:
    """A live scrape parses and is clean, but for the abbreviation ms in names that were promised."""
    assert complaints(promtool, told.scrape) == set()


@pytest.mark.req("ORCH-4046")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# HELP a_total x\n# TYPE a_total gauge\na_total 1\n", "non-counter metrics should not have"),
        ("# TYPE a gauge\na 1\n", "no help text"),
        ("# HELP wait_ms x\n# TYPE wait_ms gauge\nwait_ms 1\n", "abbreviated units"),
    ],
)
def test_promtool_bites(promtool: Path, text: str, said: str) -> None:
    """What is not clean is told, so that the silence above means something."""
    assert any(said in line for line in complaints(promtool, text))


@pytest.mark.req("ORCH-4049")
def test_rules_and_the_example_configuration_are_valid(promtool: Path) -> None:
    """Promtool accepts the rules, and the scrape configuration together with them."""
    checked = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    configured = run(promtool, "check", "config", DEPLOY / "prometheus.yml")
    assert configured.returncode == 0, configured.stdout + configured.stderr


def foreign_names(expr: str) -> list[str]:
    """List what an expression takes for a series, a label or a value that the contract does not have."""
    series = {
        metric.name + suffix: metric
        for metric in CONTRACT.metrics
        for suffix in (("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",))
    }
    labels = {label for metric in CONTRACT.metrics for label in metric.labels} | {"instance", "le"}
    found = [word for words in re.findall(r"by \(([^)]*)\)", expr) for word in words.split(", ") if word not in labels]
    bare = re.sub(r"by \([^)]*\)|\[[^]]*\]|\{[^}]*\}", "", expr)
    names = set(re.findall(r"[a-zA-Z_]\w*\b(?!\s*\()", bare)) - {"and", "or", "up"}
    found += sorted(names - series.keys())
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expr):
        for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', selector):
            if name == "up" or label == "le" or name not in series:
                continue
            closed = series[name].values.get(label)
            found += [label] if label not in series[name].labels else []
            found += [word for word in value.split("|") if closed is not None and word not in closed]
    return found


@pytest.mark.req("ORCH-4049")
def test_rules_use_only_what_the_contract_promises() -> None:
    """Every metric, label and closed value in an expression is one of the contract; `up` is Prometheus's own."""
    assert {rule["alert"]: names for rule in rules() if (names := foreign_names(rule["expr"]))} == {}
    for wrong in (
        "queue_size > 1", "sum by (pool) (queue_depth) > 1", 'replicas{state="dead"} > 1', 'replicas{reason="client"} > 1',
        'rate(tasks_failed_total{reason=~"INTERNAL|BUG"}[5m]) > 1', "rate(latency_decode_ms[5m]) > 1",
    ):  # fmt: skip
        assert len(foreign_names(wrong)) == 1, wrong


@pytest.mark.req("ORCH-4049")
def test_every_rule_says_what_is_wrong_how_it_shows_and_what_to_do() -> None:
    """Each alert has a severity, a summary, a description and an action; no two have one name."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "action"}, rule["alert"]
        assert all(len(text) > 20 for text in rule["annotations"].values()), rule["alert"]


@pytest.mark.req("ORCH-4049")
def test_every_rule_has_a_case_that_fires_and_one_that_does_not() -> None:
    """No alert is shipped that was never seen to fire, or never seen silent."""
    names = {rule["alert"] for rule in rules()}
    assert {case.alert for case in CASES if case.firing} == names
    assert {case.alert for case in CASES if not case.firing} == names


def written(cases: Sequence[Case], rule_file: Path) -> str:
    """Write the cases as promtool's unit tests, annotations filled in from the rules."""
    known = {rule["alert"]: rule for rule in rules()}
    tests = []
    for case in cases:
        rule = known[case.alert]
        alerts = [
            {
                "exp_labels": rule["labels"] | firing.labels,
                "exp_annotations": {
                    name: fill(text, firing.labels, firing.value) for name, text in rule["annotations"].items()
                },
            }
            for firing in case.firing
        ]
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": [
                    {"eval_time": f"{case.minutes}m", "alertname": case.alert, "exp_alerts": alerts},
                ],
            }
        )
    return json.dumps({"rule_files": [str(rule_file)], "evaluation_interval": "1m", "tests": tests})


def fill(text: str, labels: dict[str, str], value: str) -> str:
    """Fill in an annotation as Prometheus does."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", value, text)


@pytest.mark.req("ORCH-4049")
def test_rules_fire_and_stay_silent_where_they_should(promtool: Path, tmp_path: Path) -> None:
    """Promtool's unit tests of all cases pass."""
    path = tmp_path / "cases.yml"
    path.write_text(written(CASES, ALERTS), encoding="utf-8")
    done = run(promtool, "test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.req("ORCH-4049")
@pytest.mark.parametrize(("expr", "fires"), [("({expr}) and vector(1) < 0", True), ("vector(1) > 0", False)])
def test_a_rule_that_is_broken_is_found(promtool: Path, tmp_path: Path, expr: str, *, fires: bool) -> None:
    """Rules that never fire fail each case that must, rules that always do each that must not: every one of them is named."""
    cases = [case for case in CASES if bool(case.firing) is fires]
    broken = [rule | {"expr": expr.format(expr=rule["expr"]), "for": "0s"} for rule in rules()]
    done = run(promtool, "test", "rules", rewritten(broken, cases, tmp_path))
    assert done.returncode != 0
    failed = set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr))
    assert failed == {rule["alert"] for rule in rules()}


@pytest.mark.req("ORCH-4049")
def test_an_expression_that_is_none_is_found(promtool: Path, tmp_path: Path) -> None:
    """A rule that Prometheus could not load fails both checks."""
    path = rewritten([rule | {"expr": "sum by ("} for rule in rules()], CASES, tmp_path)
    assert run(promtool, "test", "rules", path).returncode != 0
    assert run(promtool, "check", "rules", tmp_path / "alerts.yml").returncode != 0


def rewritten(changed: list[dict[str, Any]], cases: Sequence[Case], directory: Path) -> Path:
    """Write changed rules, and cases for them."""
    with (directory / "alerts.yml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump({"groups": [{"name": "g", "rules": changed}]}, file)
    path = directory / "cases.yml"
    path.write_text(written(cases, directory / "alerts.yml"), encoding="utf-8")
    return path
