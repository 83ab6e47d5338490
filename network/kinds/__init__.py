"""The kinds of backbone: one file each, all between the same lookup and the same tower (docs/backbones.md)."""
