"""One run: from a checked config to a trained model and its record, and the way back into a run that was stopped.

May import every package but sweep, report and cli: it knows nothing of Hydra, whose part a caller of `run_job` has.
Start with `job.py`, the phases of a run in order, and `instantiate.py`, where the config becomes objects.
"""
