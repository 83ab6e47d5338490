"""Tests of training.baselines."""
