"""Layer-wise learning rates: grouping, decay, freezing, policy, schedule, optimizer; the whole idea of lwexp.

It imports torch, `lwexp.errors` and `lwexp.formatting` (timm only where it is looked up by name), and knows no configs,
training loops or trackers. Start at `make_plan` in `plan.py`: each argument leads to the module that resolves it.
"""
