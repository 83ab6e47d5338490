"""Ratios against peers and against the limit, in one run; the oracle and the claims that stand on it."""
