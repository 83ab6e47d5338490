"""The network that is trained and exported: embeddings, tower, LoRA, DomNorm, fusion. torch only.

One forward defines the network: `Backbone.score` walks the tower and asks a `TowerLayer` for each hidden layer's normed
pre-activation. Pre-training, a literal LoRA, a fusion of several divisions and the folded serving form differ in that
layer alone. Import from the modules; this package re-exports nothing, so that importing it costs nothing.
"""
