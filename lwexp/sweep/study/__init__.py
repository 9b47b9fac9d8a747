"""`hydra/sweeper=study`: arms that search their base rate on validation and are compared on fresh seeds."""
