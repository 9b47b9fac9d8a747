"""Thin adapters for training loops that other libraries run, one module each, named after its library.

Each is a page around `make_plan`, `plan.optimizer` and `plan.scheduler`; loops that need no adapter (plain torch,
pytorch-ignite, DDP, FSDP2, PEFT) use those directly. Imports core, errors and formatting, and each module its library
alone (extra `integrations`). Begin with `settings.py`, then `lightning.py`.
"""
