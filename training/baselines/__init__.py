"""Multi-task and multi-domain networks from their papers, beside which MultiLoRA and MAMDR are measured.

Each is a `training.frameworks.structure.Structure`; `training.baselines.table.BASELINES` names them all.
docs/baselines.md has the formulas, the decisions where a paper is silent, and the parameter counts.
"""
