"""What tests of commands share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout
GOLDEN = ROOT / "tests" / "golden"


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


RunHere = Callable[..., Outcome]  # the fixture `lwexp_here`
RunCommand = Callable[..., subprocess.CompletedProcess[str]]  # the fixture `lwexp_command`
