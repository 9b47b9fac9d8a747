"""`lwexp.report` on a sweep or a study, in a process of its own: it imports mlflow and matplotlib."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def make_report(*words: str, base: Path, **environment: str) -> tuple[str, bool]:
    """What `lwexp.report` says of `words`, its errors at the end, and whether it could; started in the folder `base`.

    `environment`: variables besides those of this process.
    """
    done = subprocess.run(
        [sys.executable, "-m", "lwexp.report", *words],
        cwd=base, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "\n".join(part for part in (done.stdout.strip(), done.stderr.strip()) if part), done.returncode == 0
