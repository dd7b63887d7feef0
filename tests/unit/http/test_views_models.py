"""What `GET /v1/models` shows, and how the progress of a checksum shows in health."""

import msgspec
import pytest

from orchqueue.core import events as ev
from orchqueue.core import views
from orchqueue.core.ids import PoolId
from orchqueue.http.views_models import models, told_while_verified
from orchqueue.ports.models import ModelRecord
from tests.unit.core.driving import Driver
from tests.unit.core.trying import trial

POOL = PoolId("p")
KNOWN = ModelRecord("verified", "", "sha-m", 900, "llama", "Q4_1", 8192, 1_000)
REFUSED = ModelRecord("refused", "model file /m/b is empty; copy or download it again")
BUSY = ModelRecord("verifying", "verifying the checksum of b: 40 %")


class Catalog(dict[str, ModelRecord]):
    """Knows what it was given."""

    def find(self, model_ref: str) -> ModelRecord | None:
        """Look it up."""
        return self.get(model_ref)


def shown(core: Driver, **known: ModelRecord) -> dict[str, dict[str, object]]:
    """List models as the API does, by reference."""
    told: dict[str, list[dict[str, object]]] = msgspec.to_builtins(models(views.pools(core.core.state), Catalog(known)))
    return {str(one.pop("ref")): one for one in told["models"]}


def use(role: str, *replicas: str) -> dict[str, object]:
    """Say what the driver's pool does with a model."""
    return {"pool_id": "p", "role": role, "replica_ids": list(replicas)}


@pytest.mark.req("ORCH-4426", "ORCH-4030")
def test_each_model_tells_what_is_known_of_its_file() -> None:
    """A verified file shows its facts and when; a refused one why; one that nobody looked at shows the engine's digest."""
    core = trial(10)
    found = shown(core, m=KNOWN, new=REFUSED)
    assert found["m"] == {
        "digest": "sha-m", "state": "verified", "detail": None, "pool_ids": ["p"], "uses": [use("serving", "pr0")],
        "size_bytes": 900, "architecture": "llama", "quant": "Q4_1", "ctx_tokens": 8192, "verified_at_ms": 1_000,
    }  # fmt: skip
    assert found["new"] == {
        "digest": "digest-new", "state": "refused", "detail": REFUSED.detail, "pool_ids": ["p"], "uses": [use("canary", "pr1")],
    }  # fmt: skip
    assert shown(core)["m"] == {
        "digest": "digest-m", "state": "unknown", "detail": None, "pool_ids": ["p"], "uses": [use("serving", "pr0")],
    }  # fmt: skip


@pytest.mark.req("ORCH-4426")
def test_a_reload_shows_what_comes_and_what_a_rollback_would_bring() -> None:
    """While it is verified the new model is next; when it serves, the old one is the previous; in no pool_ids either."""
    core = Driver()
    core.handle(ev.ReloadRequested(core.reply(), POOL, "n"))
    before = shown(core, n=BUSY)
    assert (before["n"]["uses"], before["n"]["pool_ids"]) == ([use("next")], [])
    assert (before["n"]["state"], before["n"]["detail"]) == ("verifying", BUSY.detail)
    assert before["m"]["uses"] == [use("serving", "pr0")]
    core.handle(ev.ModelVerified(POOL, "n", ""))
    core.handle(ev.ReplicaStopped(next(iter(core.core.state.replicas))))
    core.ready("pr0")
    after = shown(core)
    assert after["n"]["uses"] == [use("serving", "pr0")]
    assert (after["m"]["uses"], after["m"]["pool_ids"]) == ([use("previous")], [])


@pytest.mark.req("ORCH-4426")
def test_of_an_engine_elsewhere_there_is_only_its_word() -> None:
    """A pool whose replicas have configured URLs is external."""
    (pool,) = views.pools(Driver().core.state)
    far = msgspec.structs.replace(
        pool, replicas=tuple(msgspec.structs.replace(r, url="http://far") for r in pool.replicas)
    )
    (found,) = models([far], Catalog()).models
    assert (found.state, found.digest) == ("external", far.replicas[0].facts and far.replicas[0].facts.model_digest)


@pytest.mark.req("ORCH-4425")
def test_the_progress_of_a_checksum_shows_where_its_start_or_reload_waits() -> None:
    """Who is starting, and a pool that is reloading, tell how far it is; who serves tells nothing."""
    core = Driver()
    (pool,) = views.pools(core.core.state)
    assert told_while_verified(pool, Catalog(m=BUSY)) is pool
    starting = msgspec.structs.replace(pool, replicas=(msgspec.structs.replace(pool.replicas[0], state="starting"),))
    told = told_while_verified(starting, Catalog(m=BUSY))
    assert (told.last_error, told.replicas[0].last_error) == (BUSY.detail, BUSY.detail)
    assert told_while_verified(starting, Catalog(m=REFUSED)) is starting
    core.handle(ev.ReloadRequested(core.reply(), POOL, "n"))
    (reloading,) = views.pools(core.core.state)
    told = told_while_verified(reloading, Catalog(n=BUSY))
    assert (told.last_error, told.replicas[0].last_error) == (BUSY.detail, None)
