"""Training of many domains at once: their parameters stacked, one batched product in the place of one for each domain.

A domain that is trained in a pack ends with the weights that it would have alone, but for the order of sums
(docs/packed.md).
"""
