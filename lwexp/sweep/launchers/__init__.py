"""Where the jobs of a sweep run: in the launching process, side by side, on Slurm, on Ray.

Imports hydra, `lwexp.host` and `lwexp.config`; begin with `base`, then `registry`.
"""
