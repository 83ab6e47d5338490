"""Pages of domain records in which an unreadable one hides no other."""

from dataclasses import dataclass

from adapters_store.record_store import DOMAIN
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A domain whose record this build cannot read.

    Args:
        domain: Whose.
        error: What is wrong with it.
    """

    domain: str
    error: str


async def domain_page(store: AdapterStore, after: str, limit: int) -> list[DomainRecord | Unreadable]:
    """Domains in order of their ids, tombstones included.

    Args:
        store: Where the records are.
        after: Only domains that sort behind this one.
        limit: At most so many.

    Raises:
        StoreUnavailable: The store cannot be read.
    """
    keys = await store.backend.list_records(DOMAIN, DOMAIN + after, limit)
    domains = [key.removeprefix(DOMAIN) for key in keys]
    found, faults = await store.stamped_domains(domains)
    page: list[DomainRecord | Unreadable] = []
    for domain in domains:
        if domain in faults:
            page.append(Unreadable(domain, faults[domain]))
        elif domain in found:
            page.append(found[domain].record)
    return page
