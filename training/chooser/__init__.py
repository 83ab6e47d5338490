"""The division chooser: which auxiliary division is worth adapters of its own (docs/divisions.md)."""
