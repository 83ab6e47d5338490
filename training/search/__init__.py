"""Hyper-parameter search within a stated budget: the same for a stage of MultiLoRA, a baseline and a framework."""
