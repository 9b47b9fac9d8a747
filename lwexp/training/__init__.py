"""The training loop, evaluation and checkpoints of one learner, in one process or many.

May import errors, formatting, host, core, distributed, data and tracking: it knows no config and no Hydra.
Start with `trainer.py`, the loop on one page, and `callbacks.py`, its events.
"""
