"""What every test shares: a clean environment, one hypothesis profile and the form of the `req` marker."""

import os
import re

import pytest
from hypothesis import settings

settings.register_profile("gate", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

REQUIREMENT = re.compile(r"ORCH-\d{4}")
# A proxy or a credential of the machine must never decide what a test sees.
FOREIGN_VARIABLES = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "ORCHQ_URL",
    "ORCHQ_API_KEY",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's proxies and our own variables from each test."""
    for name in FOREIGN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PACT_DO_NOT_TRACK", "true")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a `req` marker that does not name requirements."""
    for item in items:
        for marker in item.iter_markers("req"):
            bad = [value for value in marker.args if not (isinstance(value, str) and REQUIREMENT.fullmatch(value))]
            if bad or not marker.args:
                raise pytest.UsageError(f"{item.nodeid}: req marker wants ids like ORCH-2001, got {marker.args!r}")
