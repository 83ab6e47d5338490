"""What becomes of prepared blobs, as it is counted."""

from typing import Literal

Outcome = Literal["used", "absent", "gone", "foreign", "kept", "skipped"]
"""used: a load took it. absent: none was ever kept. gone: evicted, torn or damaged. foreign: it is not what its record
says. kept: it is on the disk. skipped: too many, or too much, waited to be written, the disk did not take it, or it is
of a kind that is not kept."""
