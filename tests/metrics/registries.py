"""Registries for tests: one that tolerates no fault, and one with something of each kind in it."""

from orchqueue.adapters.metrics import Contract, MetricsRegistry

REPLICA = ("llamacpp", "1.0", "p", "p-0")


def strict_registry(contract: Contract) -> MetricsRegistry:
    """Make a registry that fails the test where something does not fit the contract."""

    def refuse(message: str) -> None:
        raise AssertionError(message)

    return MetricsRegistry(contract, refuse)


def filled(registry: MetricsRegistry) -> str:
    """Put something into each kind of metric and scrape."""
    registry.count("tasks_enqueued_total", ("llamacpp", "1.0", "p", "-", "batch"), 1)
    registry.count("tasks_canceled_total", (*REPLICA, "client"), 1)
    registry.count("tokens_out_total", REPLICA, 7)
    registry.observe("latency_first_token_ms", ("llamacpp", "1.0", "p", "batch"), 120)
    registry.replace_gauge("queue_depth", [(("llamacpp", "1.0", "p", "batch"), 3)])
    registry.replace_gauge("kv_cache_usage_ratio", [(REPLICA, 0.5)])
    return registry.render().decode()
