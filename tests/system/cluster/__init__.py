"""Sweeps on engines of their own: joblib, a Slurm and a Ray of this machine."""
