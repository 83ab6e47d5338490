"""What the other workers of a replica could not match: read from their segments, which lie in the same folder.

Any worker of a socket may get the feedback for a response that another one gave. It stores the event at once, without
the response; the one that gave it finds the event here, counts it and writes a line that completes it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from adapters_store.feedback_lines import SCHEMA, FeedbackLine
from service.feedback.folder import Segment, SegmentFolder

LOOK_BYTES = 4 << 20


class SiblingLines:
    """New unmatched lines of other writers. Every method may block and belongs on a thread.

    Args:
        folder: of all workers.
        writer: names this process in file names; its own lines are passed over.
        look_bytes: read from one segment at a time.
    """

    def __init__(self, folder: SegmentFolder, writer: str, look_bytes: int = LOOK_BYTES) -> None:
        self._folder = folder
        self._own = f"-{writer}-"
        self._look_bytes = look_bytes
        self._decoder = msgspec.json.Decoder(FeedbackLine)
        self._read: dict[str, int] | None = None

    def look(self) -> list[FeedbackLine]:
        """Unmatched lines that name a response, written since the last look; the first one only takes stock.

        Raises:
            OSError: the disk refuses.
        """
        others = [segment for segment in self._folder.segments() if self._own not in segment.named.name]
        if self._read is None:
            # what was asked about before this process began was not answered by it
            self._read = {segment.named.name: segment.size_bytes for segment in others}
            return []
        self._read = {segment.named.name: self._read.get(segment.named.name, 0) for segment in others}
        return [line for segment in others for line in self._new(segment, self._read)]

    def _new(self, segment: Segment, read: dict[str, int]) -> Iterator[FeedbackLine]:
        name = segment.named.name
        if segment.size_bytes <= read[name]:
            return
        try:
            with segment.path.open("rb") as file:
                file.seek(read[name])
                content = file.read(self._look_bytes)
        except FileNotFoundError:  # renamed meanwhile: the next look finds it
            return
        whole = content.rfind(b"\n") + 1
        read[name] += whole
        for raw in content[:whole].splitlines():
            try:
                line = self._decoder.decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # training will name it
            if line.schema == SCHEMA and line.request_id is not None and not line.matched:
                yield line
