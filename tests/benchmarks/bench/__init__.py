"""Tests of what `make bench` measures by."""
