"""The Lua scripts of the Redis store: a record, its version and its event are written together or not at all.

KEYS of one tag: 1 record, 2 versions (a hash: key -> `<generation>-<sha1>`), 3 feed (a stream), 4 last (its last id).

An event's id is `<count>-<mark>`: the count goes up by one, the mark is drawn at random by the writer, and the event
names the id before it. So an id says which history it is of: after a wipe, a restore or a failover that lost the newest
events, the ids that a reader holds no longer fit, whatever was written since. Redis runs a script alone, and a command
that it refuses (out of memory, read only, no disk) is the first write of the script, so nothing is half-written.
"""

import hashlib
from dataclasses import dataclass

# What a reader may lag behind, in events of one tag, before it has to compare everything.
KEPT_EVENTS = 10_000

_HELD = """
local held = redis.call('HGET', KEYS[2], ARGV[1])
if (held and string.match(held, '^(%d+)-') or '0') ~= ARGV[4] then return 0 end
"""

_APPEND = """
local last = redis.call('GET', KEYS[4])
if not last then
  redis.call('DEL', KEYS[3])
  last = '0-0'
end
local id = string.format('%.0f-%s', tonumber(string.match(last, '^%d+')) + 1, ARGV[2])
redis.call('XADD', KEYS[3], 'MAXLEN', '=', ARGV[3], id, 'key', ARGV[1], 'after', last)
redis.call('SET', KEYS[4], id)
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that Redis knows it by.

    Args:
        source: Lua.
    """

    source: str

    @property
    def sha(self) -> str:
        """sha1 of the source, hex: what EVALSHA takes."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


# ARGV: key, mark, kept events, expected generation, value, version. 1: written; 0: another generation is there.
REPLACE = Script(
    _HELD
    + _APPEND
    + """
redis.call('SET', KEYS[1], ARGV[5])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[6])
return 1
"""
)

# ARGV: key, mark, kept events, expected generation. 1: removed; 0: another generation is there, or none.
REMOVE = Script(
    _HELD
    + "if not held then return 0 end\n"
    + _APPEND
    + """
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""
)

# ARGV: key, mark, kept events. An event without a record.
HINT = Script(_APPEND + "return 1\n")
