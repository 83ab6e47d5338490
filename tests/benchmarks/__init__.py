"""Tests of benchmarks: what their figures are computed by."""
