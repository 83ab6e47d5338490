"""Learning frameworks over domains, each for any network (methods.md 3): MAMDR and what it is compared with.

A `Structure` is a network that scores rows of many domains. A `Framework` trains one by epochs; its `State` is all that
it has learned. `fit` runs epochs, selects and resumes. Import from the modules; this package re-exports nothing.
"""
