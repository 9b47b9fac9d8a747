"""Search in place of a grid: Optuna draws trials and prunes them; the best settings are repeated over seeds."""
