"""Where prepared data comes from; each source returns a `PreparedDataset`."""
