"""A run told to people and to other programs: one page, and sinks that take its figures elsewhere (docs/reports.md)."""
