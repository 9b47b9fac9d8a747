"""The command line of `run` and `preview`: Hydra's application, its arguments, help, plugins and one-line errors.

May import errors, formatting, redaction, host, config, models, distributed, experiment and sweep; nothing but the
commands imports it. Start with `app.py`, which calls `arguments.py` before Hydra and is called back by `callback.py`.
"""
