"""Benchmarks as data: the public multi-domain sets of MAMDR, built from public files by the paper's rules.

`sets.build_set` is the way in; `rules` has what all sets share.
"""
