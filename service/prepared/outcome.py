"""What becomes of prepared blobs, as it is counted."""

from typing import Literal

Outcome = Literal["used", "absent", "gone", "foreign", "kept", "skipped"]
"""used: a load took it. absent: none was ever kept. gone: evicted, torn or damaged. foreign: it is not what its record
says. kept: given to the disk. skipped: too many waited to be written, or it is of a kind that is not kept."""
