"""`python -m lwexp.study study=<name>`: a comparison of arms, each at its best base rate, on fresh seeds."""

from __future__ import annotations

import sys

from .cli import app, help_pages
from .run import run


def main() -> None:
    """Run a study from the command line: a sweep of lwexp.run's with the sweeper for studies."""
    if "-m" not in sys.argv[1:] and "--multirun" not in sys.argv[1:]:
        sys.argv.append("-m")
    app.main(run, folder="runs", page=help_pages.study_page)


if __name__ == "__main__":
    main()
