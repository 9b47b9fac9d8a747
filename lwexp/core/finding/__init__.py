"""Range tests of learning rates: the loss over a rate that rises at every step, and the rates that it suggests."""
