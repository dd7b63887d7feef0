"""Walk from each requirement to its contract, pact, tests, code and metrics, and tell where a link is missing or lies.

`python -m tools.trace` writes `requirements/index.yaml` and `COMPLIANCE.md`; `--check` only compares.
"""
