"""From theta_S and theta_i, plain tensors by a bundle's names, to artifacts (methods.md 3 and 4).

`delta` writes theta_i as it is, `overlay` moves the rows of id embeddings into an id overlay, and `compression` makes a
LoRA of the rest, with ranks that a gate on validation AUC chooses.
"""
