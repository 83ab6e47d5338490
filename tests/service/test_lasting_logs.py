"""The log outlives whoever reads it."""

from __future__ import annotations

import os

from service.logs import open_log


def test_a_line_that_nobody_can_read_any_more_is_left_out() -> None:
    """Law: once the reader is gone writing raises nothing, and neither does the end of the stream."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        log = open_log("info", stream)
        log.info("first")
        assert b'"first"' in os.read(reader, 1000)
        os.close(reader)
        log.info("second")
        log.info("third")
