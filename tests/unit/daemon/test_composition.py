"""What the configuration becomes when the daemon is put together."""

from pathlib import Path

import msgspec
import pytest

from orchqueue.adapters.engines.connection import encode_request
from orchqueue.adapters.models import ModelStore
from orchqueue.adapters.processes.devices import DeviceProbe
from orchqueue.adapters.processes.host import LlamacppExternalHost
from orchqueue.composition import _host
from orchqueue.config.loader import parse
from orchqueue.config.masking import MASK, render_yaml

FAR = b"""\
pools:
  - id: far
    engine: llamacpp
    model: repo:org/model
    launch: {mode: external, urls: ["http://a:1"], api_key_env: FAR_KEY}
"""


@pytest.mark.req("ORCH-4219")
def test_an_external_engine_gets_its_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that the named variable holds goes with every request, and shows nowhere in the configuration."""
    monkeypatch.setenv("FAR_KEY", "sk-1234")
    config = parse(FAR, "test.yaml", "/")
    host = _host(config.pools[0], tmp_path, ModelStore(), DeviceProbe())
    assert isinstance(host, LlamacppExternalHost)
    (endpoint,) = host._endpoints.values()
    assert b"Authorization: Bearer sk-1234\r\n" in encode_request(endpoint, "GET", "/health", None)
    assert f"api_key_env: '{MASK}'" in render_yaml(config)
    assert b"sk-1234" not in msgspec.json.encode(config)
