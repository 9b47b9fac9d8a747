"""Sweeps: many jobs from one command, with one parent run in MLflow; each point runs once, however often it resumes.

May import Hydra and everything up to `lwexp.experiment`; no part of the training itself. Begin with `sweeper`
(a grid: plan, run, report), then `session`, `planning`, `running` and `monitor`; `worker` is a job's own process,
`launchers` say where jobs run, and `search` draws points with Optuna.
"""
