"""Real servers that tests and benchmarks start on free ports of the loopback, and stop."""
