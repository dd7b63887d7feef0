"""Accounts to the last unit: what a task takes, when too much is asked, what comes back, and when an account goes."""

import pytest

from orchqueue.core.accounts import MB_BYTES, REQUEST_MICRO, TOKEN_UNITS, Account, Bucket, Hold, Limits, limits_of
from orchqueue.core.ids import Tenant
from orchqueue.core.ledger import Demand, Excess, Ledger, QuotaUse, Scope
from orchqueue.core.settings import Quotas, TenantSettings

pytestmark = pytest.mark.req("ORCH-4151", "ORCH-4300")
A, B = Tenant("a"), Tenant("b")
NOW = 1_000_000
FREE = Quotas()


def ledger(quotas: Quotas = FREE, per_key: Quotas = FREE) -> Ledger:
    """Give tenant `a` quotas, and each of its keys."""
    return Ledger((TenantSettings("a", 1, quotas, per_key),))


def held(book: Ledger, tenant: Tenant = A, key_id: str | None = None) -> tuple[int, int, int, int]:
    """Tell tasks, waiting, tokens and bytes that an account holds."""
    account = book.accounts[tenant, key_id]
    return account.tasks, account.waiting, account.tokens, account.kv_bytes


def take(book: Ledger, tokens: int = 10, kv_bytes: int = 0, key_id: str = "k", at_ms: int = NOW) -> Hold:
    """Reserve for a task of tenant `a`."""
    hold = book.reserve(A, key_id, Demand(tokens, kv_bytes), at_ms)
    assert hold is not None
    return hold


@pytest.mark.parametrize(
    ("quotas", "limits"),
    [
        (Quotas(), None),
        (Quotas(requests_per_s=2.5), Limits(2_500, 2_500_000, None, None, None, None)),
        (Quotas(requests_per_s=0.25), Limits(250, REQUEST_MICRO, None, None, None, None)),
        (Quotas(requests_per_s=0.0001), Limits(1, REQUEST_MICRO, None, None, None, None)),
        (Quotas(requests_per_s=0.0016), Limits(2, REQUEST_MICRO, None, None, None, None)),
        (Quotas(requests_per_s=1, burst=7), Limits(1_000, 7 * REQUEST_MICRO, None, None, None, None)),
        (Quotas(None, None, 60, 2, 3, 4), Limits(None, REQUEST_MICRO, 60, 2, 3, 4 * MB_BYTES)),
    ],
)
def test_limits_are_whole_numbers(quotas: Quotas, limits: Limits | None) -> None:
    """Rates in millionths of a request, at least one each millisecond; a burst is one second, or one request if less."""
    assert limits_of(quotas) == limits


def test_a_bucket_comes_back_at_its_rate_and_never_holds_more_than_it_can() -> None:
    """What was taken shrinks each millisecond, never below nothing; giving back more than was taken fills it."""
    bucket = Bucket()
    bucket.take(1_000, 10, 50)
    assert [bucket.taken_at(10, at) for at in (0, 50, 51, 149, 150, 151, 999)] == [1_000, 1_000, 990, 10, 0, 0, 0]
    bucket.take(500, 10, 60)
    assert (bucket.taken, bucket.as_of_ms) == (1_400, 60)
    bucket.take(-1_500, 10, 70)
    assert (bucket.taken, bucket.as_of_ms) == (0, 70)


def test_what_is_told_late_counts_as_of_now() -> None:
    """An earlier instant than the bucket's own takes no less."""
    bucket = Bucket(100, 50)
    bucket.take(7, 10, 40)
    assert (bucket.taken, bucket.as_of_ms) == (107, 50)


def test_a_task_counts_in_both_accounts_until_it_ends() -> None:
    """Reserved, started, waiting again, started, settled: sums move together and end at zero."""
    limits = Quotas(None, None, 1_000, 9, 9, 9)
    book = ledger(limits, limits)
    hold = take(book, 10, 50)
    other = take(book, 3, 4, "l")
    assert hold == Hold(A, "k", 10, 50, waiting=True)
    assert (held(book), held(book, A, "k"), held(book, A, "l")) == ((2, 2, 13, 54), (1, 1, 10, 50), (1, 1, 3, 4))
    book.start(hold)
    assert (held(book), held(book, A, "k"), held(book, A, "l")) == ((2, 1, 13, 54), (1, 0, 10, 50), (1, 1, 3, 4))
    book.wait_again(hold)
    assert (held(book), held(book, A, "k")) == ((2, 2, 13, 54), (1, 1, 10, 50))
    book.start(hold)
    book.settle(hold, 10, NOW)
    book.settle(other, 0, NOW)
    assert (held(book), held(book, A, "k")) == ((0, 0, 0, 0), (0, 0, 0, 0))


def test_a_task_cannot_start_twice_or_wait_twice() -> None:
    """Each move must change something."""
    book = ledger(Quotas(queued_tasks=2))
    hold = take(book)
    with pytest.raises(AssertionError, match="a task of a moves from waiting True to True"):
        book.wait_again(hold)
    book.start(hold)
    with pytest.raises(AssertionError, match="a task of a moves from waiting False to False"):
        book.start(hold)


def test_who_has_no_limits_has_no_account() -> None:
    """Nothing is booked for other tenants, nor for the side of a tenant that has no limits."""
    book = ledger(Quotas(concurrent_tasks=1))
    assert book.reserve(B, "k", Demand(5), NOW) is None
    assert book.excess(B, "k", Demand(5), NOW) is None
    assert (book.terms(B), book.uses(TenantSettings("b"), B, "k", 0, NOW)) == (None, ())
    book.start(None)
    book.wait_again(None)
    take(book)
    assert list(book.accounts) == [(A, None)]
    book = ledger(per_key=Quotas(concurrent_tasks=1))
    take(book)
    assert list(book.accounts) == [(A, "k")]


def test_a_tenant_that_is_not_listed_has_the_terms_of_all_others() -> None:
    """Each has its own account; one that is listed has only what its entry says."""
    one = Quotas(concurrent_tasks=1)
    book = Ledger((TenantSettings("*", 1, one), TenantSettings("a")))
    assert book.terms(A) is None
    for tenant in (B, Tenant("c")):
        assert book.excess(tenant, "", Demand(1), NOW) is None
        book.reserve(tenant, "", Demand(1), NOW)
        assert book.excess(tenant, "", Demand(1), NOW) == Excess("tenant", "concurrent_tasks")


@pytest.mark.parametrize("scope", ["tenant", "key"])
@pytest.mark.parametrize(
    ("quotas", "taken", "fits", "beyond"),
    [
        (Quotas(concurrent_tasks=2), 1, Demand(1), None),
        (Quotas(concurrent_tasks=2), 2, None, Excess("key", "concurrent_tasks")),
        (Quotas(queued_tasks=2), 1, Demand(1), None),
        (Quotas(queued_tasks=2), 2, None, Excess("key", "queued_tasks")),
        (Quotas(tokens_per_minute=30), 2, Demand(10), Excess("key", "tokens_per_minute", wait_ms=2_000)),
        (Quotas(requests_per_s=2), 1, Demand(1), None),
        (Quotas(requests_per_s=2), 2, None, Excess("key", "requests_per_s", wait_ms=500)),
        (Quotas(requests_per_s=3), 3, None, Excess("key", "requests_per_s", wait_ms=334)),
        (Quotas(kv_mb=3), 2, Demand(1, MB_BYTES), Excess("key", "kv_mb")),
    ],
)
def test_each_limit_allows_exactly_what_it_says(
    scope: Scope, quotas: Quotas, taken: int, fits: Demand | None, beyond: Excess | None
) -> None:
    """Up to the limit a task fits; one unit more is too much, and rates tell exactly when it is not any more."""
    book = ledger(quotas) if scope == "tenant" else ledger(per_key=quotas)
    for _ in range(taken):
        take(book, 10, MB_BYTES)
    if fits is not None:
        assert book.excess(A, "k", fits, NOW) is None
    if beyond is None:
        return
    beyond = Excess(scope, beyond.quota, wait_ms=beyond.wait_ms)
    more = Demand(11, MB_BYTES + 1)
    assert book.excess(A, "k", more, NOW) == beyond
    assert book.excess(B, "k", more, NOW) is None
    if scope == "key":
        assert book.excess(A, "l", Demand(1, MB_BYTES), NOW) is None
    if beyond.wait_ms is not None:
        assert book.excess(A, "k", more, NOW + beyond.wait_ms - 1) is not None
        assert book.excess(A, "k", more, NOW + beyond.wait_ms) is None


def test_the_smallest_part_of_a_token_is_waited_for() -> None:
    """A level that misses one unit is not enough, and a millisecond later it is."""
    book = ledger(Quotas(tokens_per_minute=60))
    book.accounts[A, None] = Account(tokens_taken=Bucket(1, NOW))
    assert book.excess(A, "k", Demand(60), NOW) == Excess("tenant", "tokens_per_minute", wait_ms=1)
    assert book.excess(A, "k", Demand(60), NOW + 1) is None


@pytest.mark.req("ORCH-4306")
@pytest.mark.parametrize("scope", ["tenant", "key"])
def test_what_never_fits_is_told_apart(scope: Scope) -> None:
    """More than a whole minute, or than the whole room for context; exactly all of it may fit."""
    quotas = Quotas(None, None, 100, 1, None, 1)
    book = ledger(quotas) if scope == "tenant" else ledger(per_key=quotas)
    take(book, 1)
    assert book.excess(A, "k", Demand(101), NOW) == Excess(scope, "tokens_per_minute", never=True)
    assert book.excess(A, "k", Demand(1, MB_BYTES + 1), NOW) == Excess(scope, "kv_mb", never=True)
    assert book.excess(A, "k", Demand(100, MB_BYTES), NOW + 60_000) == Excess(scope, "concurrent_tasks")


def test_cached_context_counts_for_the_tenant_alone() -> None:
    """Sessions belong to a tenant, not to one of its keys."""
    demand = Demand(1, MB_BYTES, MB_BYTES)
    assert ledger(Quotas(kv_mb=2)).excess(A, "k", demand, NOW) is None
    assert ledger(Quotas(kv_mb=1)).excess(A, "k", demand, NOW) == Excess("tenant", "kv_mb")
    assert ledger(per_key=Quotas(kv_mb=1)).excess(A, "k", demand, NOW) is None


def test_rates_come_before_what_is_held_and_tenants_before_keys() -> None:
    """The first in that order is named."""
    order = (
        Quotas(requests_per_s=1),
        Quotas(tokens_per_minute=10),
        Quotas(concurrent_tasks=1),
        Quotas(queued_tasks=1),
        Quotas(kv_mb=1),
    )
    names = ("requests_per_s", "tokens_per_minute", "concurrent_tasks", "queued_tasks", "kv_mb")
    for first in range(5):
        for second in range(5):
            book = ledger(order[first], order[second])
            take(book, 10, MB_BYTES)
            found = book.excess(A, "k", Demand(10, MB_BYTES), NOW)
            assert found is not None
            assert (found.scope, found.quota) == (
                ("tenant", names[first]) if first <= second else ("key", names[second])
            )


@pytest.mark.req("ORCH-4301")
def test_what_was_not_used_comes_back_at_once_and_what_was_used_beyond_is_taken() -> None:
    """Less, as much, and more than reserved; the level may go below zero."""
    for used, missing in ((0, 0), (5, 5), (40, 40), (130, 130)):
        book = ledger(Quotas(tokens_per_minute=100))
        take(book, 0)
        hold = take(book, 40)
        assert book.accounts[A, None].tokens_taken.taken == 40 * TOKEN_UNITS
        book.start(hold)
        book.settle(hold, used, NOW)
        assert book.accounts[A, None].tokens_taken.taken == missing * TOKEN_UNITS
        found = book.excess(A, "k", Demand(100), NOW)
        assert found == (Excess("tenant", "tokens_per_minute", wait_ms=missing * 600) if missing else None)


@pytest.mark.req("ORCH-4302")
def test_what_an_earlier_life_took_and_gave_back_counts_at_its_time() -> None:
    """Taken at the acceptance, corrected at the end, faded since; each request counts as of its acceptance."""
    book = ledger(Quotas(requests_per_s=0.1, tokens_per_minute=60))
    book.restore(A, "k", 50, 30, NOW - 4_000, NOW - 1_000)
    account = book.accounts[A, None]
    assert account == Account(
        requests_taken=Bucket(REQUEST_MICRO, NOW - 4_000), tokens_taken=Bucket(27 * TOKEN_UNITS, NOW - 1_000)
    )
    assert book.excess(A, "k", Demand(1), NOW) == Excess("tenant", "requests_per_s", wait_ms=6_000)
    assert book.excess(A, "k", Demand(60), NOW + 6_000) == Excess("tenant", "tokens_per_minute", wait_ms=20_000)
    book.restore(B, "k", 1, 1, 0, 0)
    assert list(book.accounts) == [(A, None)]
    book = ledger(per_key=Quotas(tokens_per_minute=60))
    book.restore(A, "k", 7, 7, NOW, NOW)
    assert book.accounts == {(A, "k"): Account(tokens_taken=Bucket(7 * TOKEN_UNITS, NOW))}


@pytest.mark.req("ORCH-4302")
def test_buckets_move_in_the_order_of_time_whatever_the_order_of_telling() -> None:
    """What an earlier life did is told ends first; nothing of what came back meanwhile is lost by that."""
    quotas = Quotas(tokens_per_minute=60)
    book, again, limits = ledger(quotas), ledger(quotas), limits_of(quotas)
    assert limits is not None
    book.reserve(A, "k", Demand(20), NOW - 5_000)
    assert book.accounts[A, None].tokens_missing(limits, NOW - 5_000) == 20 * TOKEN_UNITS
    book.restore(A, "k", 9, 3, NOW - 4_000, NOW)
    again.restore(A, "k", 9, 3, NOW - 4_000, NOW)
    again.reserve(A, "k", Demand(20), NOW - 5_000)
    assert book.accounts[A, None] == again.accounts[A, None]
    assert book.accounts[A, None].tokens_missing(limits, NOW) == (20 + 3 - 5) * TOKEN_UNITS


def test_a_withdrawn_task_never_took_anything() -> None:
    """Its request and its tokens come back; where there is no account any more nothing can."""
    book = ledger(Quotas(requests_per_s=1, burst=5, tokens_per_minute=100))
    first, second = take(book, 10), take(book, 20)
    book.settle(first, 7, NOW)
    book.withdraw(A, "k", 7, NOW)
    account = book.accounts[A, None]
    assert (account.requests_taken.taken, account.tokens_taken.taken) == (REQUEST_MICRO, 20 * TOKEN_UNITS)
    book.settle(second, 0, NOW)
    book.withdraw(A, "k", 0, NOW)
    assert book.accounts[A, None] == Account(requests_taken=Bucket(0, NOW), tokens_taken=Bucket(0, NOW))
    book.sweep(NOW)
    book.withdraw(A, "k", 0, NOW)
    book.withdraw(B, "k", 0, NOW)
    assert book.accounts == {}
    book = ledger(per_key=Quotas(tokens_per_minute=100))
    book.settle(take(book, 20), 20, NOW)
    book.withdraw(A, "k", 15, NOW)
    assert book.accounts[A, "k"].tokens_taken.taken == 5 * TOKEN_UNITS


def test_accounts_that_nobody_needs_go_as_others_come() -> None:
    """Each look takes two in turn: one whose bucket is full again goes, one that is in use comes back at the end."""
    book = ledger(per_key=Quotas(tokens_per_minute=60_000))
    for number, tokens in enumerate((5, 0, 3, 0, 0)):
        hold = take(book, tokens, key_id=f"k{number}")
        if number != 1:
            book.settle(hold, tokens, NOW)
    left = [["k2", "k3", "k4", "k0", "k1"], ["k4", "k0", "k1", "k2"], ["k1", "k2", "k0"], ["k0", "k1", "k2"]]
    for keys in left:
        book.sweep(NOW)
        assert [key for _, key in book.accounts] == keys
    book.sweep(NOW + 4)
    assert [key for _, key in book.accounts] == ["k2", "k0", "k1"]
    for _ in range(2):
        book.sweep(NOW + 5)
    assert [key for _, key in book.accounts] == ["k1"]
    Ledger().sweep(NOW)


@pytest.mark.parametrize(
    "quotas", [Quotas(requests_per_s=1), Quotas(tokens_per_minute=60), Quotas(queued_tasks=1), Quotas(kv_mb=1)]
)
def test_an_account_is_idle_only_when_nothing_is_held_and_nothing_is_missing(quotas: Quotas) -> None:
    """A held task or a bucket that is not full keeps it; a bucket that is not limited any more does not."""
    limits = limits_of(quotas)
    assert limits is not None
    assert Account().is_idle(limits, NOW)
    assert not Account(tasks=1).is_idle(limits, NOW)
    requests, tokens = Account(requests_taken=Bucket(1, NOW)), Account(tokens_taken=Bucket(1, NOW))
    assert requests.is_idle(limits, NOW) == (quotas.requests_per_s is None)
    assert tokens.is_idle(limits, NOW) == (quotas.tokens_per_minute is None)
    assert requests.is_idle(limits, NOW + 1)
    assert tokens.is_idle(limits, NOW + 1)


@pytest.mark.req("ORCH-4304")
def test_new_limits_keep_what_was_taken_and_count_what_is_held_anew() -> None:
    """Until then buckets fill at the old rate, from then on at the new one; accounts whose limits are gone go."""
    book = ledger(Quotas(requests_per_s=1, burst=3, tokens_per_minute=60), Quotas(concurrent_tasks=2))
    hold = take(book, 40)
    book.configure((TenantSettings("a", 1, Quotas(requests_per_s=0.5, tokens_per_minute=45)),), NOW + 100)
    assert book.accounts == {
        (A, None): Account(
            requests_taken=Bucket(900_000, NOW + 100), tokens_taken=Bucket(40 * TOKEN_UNITS - 6_000, NOW + 100)
        )
    }
    book.book(hold)
    assert held(book) == (1, 1, 40, 0)
    assert book.excess(A, "k", Demand(6), NOW + 100) == Excess("tenant", "requests_per_s", wait_ms=1_800)
    assert book.excess(A, "k", Demand(6), NOW + 1_900) is None
    assert book.excess(A, "k", Demand(7), NOW + 1_900) == Excess("tenant", "tokens_per_minute", wait_ms=734)
    book.configure((TenantSettings("b", 1, Quotas(kv_mb=1)),), NOW)
    assert book.accounts == {}
    book.configure((TenantSettings("a", 1, Quotas(), Quotas(concurrent_tasks=1)),), NOW)
    book.book(hold)
    assert list(book.accounts) == [(A, "k")]


@pytest.mark.req("ORCH-4305")
def test_what_is_in_use_is_shown_for_each_limit() -> None:
    """Both scopes, only what is limited, rounded up to whole requests, tokens and megabytes."""
    quotas, per_key = Quotas(0.5, 4, 60, 5, 6, 7), Quotas(requests_per_s=3, kv_mb=2)
    entry = TenantSettings("a", 1, quotas, per_key)
    book = Ledger((entry,))
    book.start(take(book, 20, 2_000_001))
    take(book, 10, 0, "l")
    assert book.uses(entry, A, "k", 1_000_000, NOW + 1) == (
        QuotaUse("tenant", "requests_per_s", 0.5, 2, 4),
        QuotaUse("tenant", "tokens_per_minute", 60, 30),
        QuotaUse("tenant", "concurrent_tasks", 5, 2),
        QuotaUse("tenant", "queued_tasks", 6, 1),
        QuotaUse("tenant", "kv_mb", 7, 4),
        QuotaUse("key", "requests_per_s", 3, 1, 3),
        QuotaUse("key", "kv_mb", 2, 3),
    )
    fresh = book.uses(entry, A, "k", 0, NOW + 2_000)
    assert [use.in_use for use in fresh] == [1, 28, 2, 1, 3, 0, 3]
    assert [use.in_use for use in book.uses(entry, A, "new", 0, NOW)][-2:] == [0, 0]
    part = TenantSettings("a", 1, Quotas(requests_per_s=2.5))
    assert repr(Ledger((part,)).uses(part, A, "k", 0, NOW)[0].burst) == "2"


def test_accounts_that_do_not_add_up_are_told() -> None:
    """Too much, too little, and an account or a task without the other."""
    book = ledger(Quotas(concurrent_tasks=5), Quotas(concurrent_tasks=5))
    hold = take(book, 3, 4)
    assert book.disagreements([hold]) == []
    assert book.disagreements([]) == [
        "the account of ('a', 'k') has booked (1, 1, 3, 4), its tasks hold (0, 0, 0, 0)",
        "the account of ('a', None) has booked (1, 1, 3, 4), its tasks hold (0, 0, 0, 0)",
    ]
    assert len(book.disagreements([hold, Hold(A, "l", 0, 0)])) == 2
    hold.waiting = False
    assert len(book.disagreements([hold])) == 2
