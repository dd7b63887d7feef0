"""The configuration's JSON Schema from its types, and the packed copy of the metrics contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from orchqueue.config.types import Config

ROOT = Path(__file__).resolve().parent.parent
SCHEMA_PATH = ROOT / "contracts" / "schemas" / "config.schema.json"
METRICS_PATH = ROOT / "ci" / "metrics.lint.json"
PACKED_METRICS_PATH = ROOT / "src" / "orchqueue" / "adapters" / "metrics_contract.json"


def generate() -> Mapping[Path, str]:
    """Write the schema, and copy the metrics contract to where an installed daemon finds it.

    Shape: {path: text}.
    """
    return {SCHEMA_PATH: config_schema(), PACKED_METRICS_PATH: METRICS_PATH.read_text(encoding="utf-8")}


def config_schema() -> str:
    """Describe the configuration file for editors and other programs.

    Shape: JSON text.
    Req: ORCH-3030
    """
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "OrchQueue configuration",
        **msgspec.json.schema(Config),
    }
    for described in schema["$defs"].values():
        # Docstrings go on with lines for developers; readers of the file want the first one.
        described["description"] = described["description"].partition("\n")[0]
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
