"""A domain that the backbone never saw: LoRA and id overlay, trained from a handful of rows or many (methods.md 2).

`ground` reads what the domain stands on from a store, `rows` and `encoding` turn its rows into what the network reads,
`overlay`, `network` and `trainer` train, `live` is what scores the domain now, `judging` calibrates and judges,
`addition` goes through all of that and writes the artifact, `publishing` makes it live.
"""
