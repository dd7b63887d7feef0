"""The parts of a pool's configuration that say how its replicas are brought back, and how a new model is tried."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from orchqueue.config.section import Milliseconds, Section


class Backoff(Section, frozen=True):
    """How long a failed replica waits before it is started again."""

    initial_ms: Annotated[Milliseconds, Meta(description="After the first failure; doubled after each other.")] = 1_000
    max_ms: Annotated[Milliseconds, Meta(description="It never waits longer.")] = 60_000
    jitter_percent: Annotated[int, Meta(ge=0, le=100, description="Replicas do not come back in step.")] = 10
    stable_after_ms: Annotated[Milliseconds, Meta(description="Up for so long, its failures are forgiven.")] = 300_000


class Breaker(Section, frozen=True):
    """When a replica that keeps failing is given a long rest."""

    failures: Annotated[int, Meta(ge=1, le=1000, description="In a row.")] = 5
    open_ms: Annotated[Milliseconds, Meta(description="How long the rest is.")] = 300_000


class SupervisionSection(Section, frozen=True):
    """How failed replicas come back."""

    backoff: Backoff = Backoff()
    breaker: Breaker = Breaker()
    restarts_per_minute: Annotated[int, Meta(ge=1, le=1000, description="Of one replica, at most.")] = 10


class Retry(Section, frozen=True):
    """How often one task is tried."""

    max_attempts: Annotated[int, Meta(ge=1, le=100, description="Starts on a replica, the first included.")] = 5


class CanarySection(Section, frozen=True):
    """What a model that is tried with `canary_percent` has to keep before it gets the rest of the tasks."""

    promote: Annotated[
        Literal["auto", "manual"],
        Meta(description="auto: it gets the rest when it has kept its levels. manual: only when it is reloaded whole."),
    ] = "auto"
    tasks: Annotated[int, Meta(ge=1, le=1_000_000, description="Over so many of its tasks the levels are judged.")] = (
        100
    )
    errors_per_mille: Annotated[int, Meta(ge=0, le=1000, description="Of its tasks, so many in 1000 may fail.")] = 5
    first_token_ms: Annotated[
        Milliseconds, Meta(description="From the start on the replica to the first token; interactive tasks only.")
    ] = 900
    late_percent: Annotated[int, Meta(ge=0, le=100, description="Of its first tokens, so many may be later.")] = 5
