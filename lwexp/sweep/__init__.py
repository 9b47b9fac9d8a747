"""Sweeps: many jobs from one command, one parent run in MLflow, each point exactly once however often it is cut off.

`points` turns a command into points; `plan_of_work` keeps them in the sweep's folder; `sweeper` has Hydra's launcher
run what is not done; `worker` is a job's side, in a process of its own; `outcome` tells from a job's folder what became
of it; `parent` is the sweep's own run in MLflow; `table` what people are shown.
"""
