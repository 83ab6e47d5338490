"""Artifacts, manifests, verification, folding and the records that say which artifact a domain serves."""
