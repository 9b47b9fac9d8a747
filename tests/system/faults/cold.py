"""`python -m tests.system.faults.cold <name> …`: `python -m lwexp.<name> …` with the hooks from the environment."""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """Install the hooks and become the command."""
    from tests.system.faults import hooks

    hooks.install()
    name = sys.argv.pop(1)
    runpy.run_module(f"lwexp.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
