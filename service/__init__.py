"""The online server: routes -> scorer -> batcher -> engine, and watcher -> loader -> slots. Imports no torch."""
