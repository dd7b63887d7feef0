"""What is generated is current, says the same as the schemas, and is made the same way twice."""

import hashlib
import importlib
import zlib
from pathlib import Path

import msgspec
import pytest

from orchqueue.schema.contract import JsonValue
from orchqueue.schema.validation import faults_of
from tests.contract.openapi import checks
from tools import gen, gen_contract, gen_types
from tools.gen_contract import Object, as_object, resolve


@pytest.mark.req("ORCH-4081", "ORCH-4235")
@pytest.mark.timeout(120)
def test_generated_files_are_current_and_made_alike_twice() -> None:
    """Two runs of every generator give the bytes that are in the tree."""
    assert gen.stale_files() == {}
    assert gen.stale_files() == {}


@pytest.mark.req("ORCH-4235")
def test_a_changed_file_is_found_stale(tmp_path: Path) -> None:
    """A file that its generator would write otherwise, or that is missing, is named."""
    changed, missing, current = (tmp_path / name for name in ("changed", "missing", "current"))
    changed.write_text("old")
    current.write_text("new")
    assert gen.stale_files((lambda: dict.fromkeys((changed, missing, current), "new"),)) == {
        changed: "new",
        missing: "new",
    }


@pytest.mark.req("ORCH-4235")
def test_check_fails_on_a_stale_file_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --check a stale file stays as it is and the command fails; without, it is written."""
    stale = tmp_path / "stale.txt"
    monkeypatch.setattr(gen, "ROOT", tmp_path)
    monkeypatch.setattr(gen, "stale_files", lambda: {stale: "new"})
    assert gen.main(["--check"]) == 1
    assert not stale.exists()
    assert "stale.txt is not current" in capsys.readouterr().err
    assert gen.main([]) == 0
    assert stale.read_text() == "new"


def _type_of(name: str) -> type[msgspec.Struct]:
    for plane in gen_contract.PLANES:
        module = importlib.import_module(f"orchqueue.schema.{plane}")
        if hasattr(module, name):
            found: type[msgspec.Struct] = getattr(module, name)
            return found
    raise LookupError(name)


def _typed_examples(planes: checks.Planes) -> list[tuple[str, str, JsonValue]]:
    found: list[tuple[str, str, JsonValue]] = []
    for name, operation in checks.all_operations(planes):
        holders = [response for _, response in checks.responses_of(operation, planes)]
        if operation.get("requestBody"):
            holders.append(resolve(operation["requestBody"], planes))
        for holder in holders:
            media = as_object(holder.get("content", {}), name).get("application/json")
            if media is not None:
                schema = str(as_object(as_object(media, name)["schema"], name)["$ref"]).rpartition("/")[2]
                found += [
                    (f"{name} {label}", schema, one)
                    for label, one in checks.good_values(as_object(media, name), planes)
                ]
    return found


def _narrowed(planes: checks.Planes) -> dict[str, str]:
    schemas = as_object(as_object(planes["data"]["components"], "components")["schemas"], "schemas")
    return {name: str(as_object(schema, name).get("x-narrows", name)) for name, schema in schemas.items()}


PLANES = checks.planes_on_disk()
TYPE_NAMES = _narrowed(PLANES)
EXAMPLES = _typed_examples(PLANES)


@pytest.mark.req("ORCH-4081")
@pytest.mark.parametrize(("schema", "value"), [one[1:] for one in EXAMPLES], ids=[one[0] for one in EXAMPLES])
def test_types_take_every_example_and_give_it_back(schema: str, value: JsonValue) -> None:
    """Each good example survives its generated type: what is encoded again still fits, and differs at most by defaults."""
    typed = msgspec.json.decode(msgspec.json.encode(value), type=_type_of(TYPE_NAMES.get(schema, schema)))
    again: Object = msgspec.json.decode(msgspec.json.encode(typed))
    assert faults_of(schema, again) == []
    assert isinstance(value, dict)
    assert again.items() <= value.items() or again == _without_defaults(value, again)


def _without_defaults(value: Object, again: Object) -> Object:
    return {key: inner for key, inner in value.items() if key in again}


@pytest.mark.req("ORCH-4093")
def test_event_ids_in_the_examples_are_true() -> None:
    """Each id in the example streams counts the bytes before it and carries their crc, as the receipt does their digest."""
    examples = as_object(as_object(PLANES["data"]["components"], "components")["examples"], "examples")
    for example in examples.values():
        text = b""
        items = as_object(example, "example")["value"]
        assert isinstance(items, list)
        for item in items:
            event = as_object(item, "event")
            if event["event"] == "token":
                text += msgspec.json.decode(str(event["data"]))["t"].encode()
            if event["event"] == "end":
                assert msgspec.json.decode(str(event["data"]))["receipt"]["digest"] == hashlib.sha256(text).hexdigest()
            if "id" in event:
                end = ":end" if event["event"] in {"end", "error"} else ""
                assert event["id"] == f"{len(text)}:{zlib.crc32(text):08x}{end}"


@pytest.mark.req("ORCH-4235")
def test_a_reference_to_nothing_is_told() -> None:
    """A reference whose target is missing stops the generator with its name."""
    with pytest.raises(gen_contract.ContractError, match="there is no Nothing"):
        resolve({"$ref": "data.yaml#/components/schemas/Nothing"}, PLANES)


@pytest.mark.req("ORCH-4081")
def test_types_hide_what_no_type_can_say() -> None:
    """Schemas that only narrow another one, and event envelopes, become no types; conditions are left out."""
    view = as_object(as_object(gen_types.view_of("data")["components"], "components")["schemas"], "schemas")
    assert not {"InvalidParams", "Backpressure", "StreamItem", "TokenItem"} & set(view)
    assert "allOf" not in as_object(view["TaskRequest"], "TaskRequest")
