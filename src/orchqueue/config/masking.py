"""Show the configuration in effect without what must not be seen."""

from __future__ import annotations

import io
import re

import msgspec
from ruamel.yaml import YAML

from orchqueue.config.document import Value
from orchqueue.config.types import Config

MASK = "********"

_SECRET = re.compile(r"(^|[_-])(key|token|secret|password|passwd|credential|auth|bearer)s?([_-]|$)", re.IGNORECASE)


def masked(config: Config) -> Value:
    """Give every field with its value in effect; environment values and anything named like a secret are masked.

    Req: ORCH-4196
    """
    tree: Value = msgspec.json.decode(msgspec.json.encode(config))
    assert isinstance(tree, dict)
    pools = tree["pools"]
    assert isinstance(pools, list)
    for pool in pools:
        assert isinstance(pool, dict)
        launch = pool["launch"]
        assert isinstance(launch, dict)
        launch["env"] = _hide(launch["env"], all_of_it=True)
        if launch["api_key_env"] is not None:
            # A name is no secret, but somebody may have put the key in its place.
            launch["api_key_env"] = MASK
        launch["args"] = _hide(launch["args"], all_of_it=False)
    return tree


def render_yaml(config: Config) -> str:
    """Write the configuration in effect as YAML, masked.

    Req: ORCH-3031
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    yaml.dump(masked(config), stream)
    return stream.getvalue()


def _hide(values: Value, *, all_of_it: bool) -> Value:
    assert isinstance(values, dict)
    return {name: MASK if all_of_it or _SECRET.search(name) else value for name, value in values.items()}
