"""Laws of a replica's reports: what the store refuses for good is told, once, with what to change."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.forge import Run
from tests.service.clockwork import ManualClock, turns_until
from tests.service.core import Core, opened

REASON = "127.0.0.1:6379 may evict what is stored: CONFIG SET maxmemory-policy noeviction"


def failed(core: Core, reports: int) -> Callable[[], bool]:
    """Whether so many reports have failed."""
    return lambda: core.ledger.failures["report"] == reports


async def test_a_store_that_refuses_writing_is_told_once_with_its_reason(random_run: Run) -> None:
    """Law: a replica on a store that must not be written says why as soon as it reports, and not with each report;
    where another reason, or the same after it was better, stands in the way, it says so again."""
    async with opened(random_run, clock := ManualClock(), prewarm_s=0) as core:
        core.backend.refusing = REASON
        core.replica.staging.start()
        await turns_until(failed(core, 1))
        core.backend.away = True  # out of reach in between, which says nothing of the reason
        for reports in (2, 3, 4):
            await clock.advance(30)
            await turns_until(failed(core, reports))
            core.backend.away = False
        assert core.ledger.refusals == [REASON]
        core.backend.refusing = "another reason"
        await clock.advance(30)
        await turns_until(failed(core, 5))
        assert core.ledger.refusals == [REASON, "another reason"]
        core.backend.refusing = None
        await clock.advance(30)
        assert len(await core.store.replica_reports()) == 1
        core.backend.refusing = REASON
        await clock.advance(30)
        await turns_until(failed(core, 6))
        assert core.ledger.refusals == [REASON, "another reason", REASON]
        core.backend.refusing = None
