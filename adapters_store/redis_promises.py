"""What a Redis must promise before a store is written to it, asked of INFO."""

from collections.abc import Mapping

from adapters_store.errors import StoreRefused
from adapters_store.redis_links import Link


async def check_promises(link: Link) -> None:
    """Refuse a Redis that may lose what it holds.

    Args:
        link: The way to it; each of its primaries is asked.

    Raises:
        StoreRefused: One may evict, keeps no append-only file, or forbids INFO; what to change is named.
        StoreUnavailable: One does not answer.
    """
    for section in ("memory", "persistence"):
        for server, reply in (await link.on_primaries("INFO", section)).items():
            if link.is_forbidden(reply):
                raise StoreRefused(f"{server} forbids INFO, which tells whether it may evict: grant +info to the user")
            _check(server, section, _told(link.answer(reply, bytes)))


def _told(info: bytes) -> dict[str, str]:
    """What INFO says; text that is no name and value is passed over."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _check(server: str, section: str, told: Mapping[str, str]) -> None:
    policy = told.get("maxmemory_policy", "unknown")
    if section == "memory" and told.get("maxmemory") != "0" and policy != "noeviction":
        raise StoreRefused(
            f"{server} may evict what is stored (maxmemory-policy {policy}): CONFIG SET maxmemory-policy noeviction, "
            "or use redis+s3://, where Redis is only a cache"
        )
    if section == "persistence" and told.get("aof_enabled") != "1":
        raise StoreRefused(
            f"{server} keeps no append-only file and would lose the store with its process: CONFIG SET appendonly yes, "
            "or use redis+s3://, where Redis is only a cache"
        )
