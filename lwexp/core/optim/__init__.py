"""Optimizers by name, with kernels that stay fast for a group per parameter. Knows torch, and timm by name only.

Start at `registry.py` (`make_optimizer`); `fused.py` are the optimizers, `kernel_calls.py` their lists of tensors,
`kernel_fit.py` what the kernels can take, `identity.py` the comparison of what the lists were made of.
"""
