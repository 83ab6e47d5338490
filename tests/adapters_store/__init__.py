"""Tests of the adapters_store room."""
