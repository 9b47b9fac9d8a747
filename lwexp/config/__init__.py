"""The config: its schema and validation, the defaults in conf/, what Hydra composed, and what a name in it refers to.

May import errors, formatting, redaction and core, and with cli and sweep alone hydra and omegaconf. Start with
`schema.py`, where every key has its type, then `compose.py`, which turns what Hydra composed into a checked config.
"""
