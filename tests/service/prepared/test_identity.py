"""Laws of what a blob is of: the code that made it counts."""

from __future__ import annotations

from service.prepared.identity import digest_of_code, sources


def test_the_code_of_a_blob_is_whatever_it_was_verified_found_and_kept_by() -> None:
    """Law: folding, an overlay's index, each engine and the blob's own layout are among the sources, each once."""
    paths = sources()
    named = {f"{path.parent.name}/{path.name}" for path in paths}
    needed = {"adapters_store/folding.py", "features/index.py", "engines/native.py", "prepared/contents.py"}
    assert needed <= named
    assert len(set(paths)) == len(paths)
    assert digest_of_code() == digest_of_code()
