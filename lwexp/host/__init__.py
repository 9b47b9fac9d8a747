"""The machine: atomic files, locks, signals, cores, memory and GPUs, the torch device.

May import errors and formatting only, and knows nothing of configs, runs or sweeps. Each module stands alone; start
with `files.py`, or with `signals.py` for what happens on Ctrl-C and SIGTERM.
"""
