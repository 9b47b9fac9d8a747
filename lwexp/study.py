"""`python -m lwexp.study study=<name>`: a comparison of arms, each at its best base rate, on fresh seeds."""

from __future__ import annotations

import sys

from .cli import app, help_pages
from .cli.arguments import SHOWS
from .run import run


def main() -> None:
    """Run a study from the command line: a sweep of lwexp.run's with the sweeper for studies."""
    if not ({"-m", "--multirun"} | SHOWS).intersection(word.partition("=")[0] for word in sys.argv):
        sys.argv.append("-m")
    if not any(word.startswith(("hydra/sweeper=", "sweep.resume=")) for word in sys.argv):
        sys.argv.append("hydra/sweeper=study")
    app.main(run, folder="runs", page=help_pages.study_page)


if __name__ == "__main__":
    main()
