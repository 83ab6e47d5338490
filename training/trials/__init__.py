"""Methods over several seeds: results that are kept, sittings that go on where the last one ended, paired tests."""
