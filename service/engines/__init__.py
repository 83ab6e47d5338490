"""Engines: one file each, all held to `service.engine.Engine` and to one contract suite."""
