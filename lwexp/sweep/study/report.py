"""The report at the end of a study, made by `lwexp.report` from its `study.csv`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lwexp.host.console import console
from lwexp.sweep.session import Session


def report_on(session: Session, table: Path) -> str:
    """What `lwexp.report` prints of the `table`; its files are kept with the parent run.

    In a process of its own, since it imports matplotlib, and a report that fails must not lose the study.
    """
    if not session.config.sweep.report:
        return ""
    out = table.parent / "report"
    environment = {**os.environ, "COLUMNS": str(console.width)}
    command = [sys.executable, "-m", "lwexp.report", str(table), "-o", str(out)]
    with console.doing("writing the report of the study"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if out.is_dir():
        session.keep(out)
    return "\n".join(part for part in (done.stdout.strip(), done.stderr.strip()) if part)
