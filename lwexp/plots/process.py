"""Draws in a subprocess, so that matplotlib and its memory do not stay with a training for hours."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lwexp.errors import RunError

from .diagnosis import Diagnosis
from .rate_table import RateTable


def write_plots(
    table: RateTable, folder: Path, *, in_process: bool = False, diagnosis: Diagnosis | None = None
) -> list[Path]:
    """Write the files of `lwexp.plots.rates.write_plots` to `folder`; returns their paths. Raises `RunError`.

    With a `diagnosis` those of `lwexp.plots.diagnostics.write_diagnosis`.
    `in_process`: draw here, for a process that has imported matplotlib anyway, such as the jobs of a sweep.
    """
    if in_process:
        from . import rates

        try:
            return rates.write_plots(table, folder, diagnosis)
        except Exception as error:
            raise RunError(f"the plots of the plan cannot be drawn: {type(error).__name__}: {error}") from error
    texts: dict[str, object] = {
        "title": table.title,
        "names": table.names,
        "depths": table.depths,
        "frozen": table.frozen,
    }
    texts |= {"about": table.about, "count": table.count, "jumps": table.jumps}
    sent = io.BytesIO()
    arrays: dict[str, Any] = {"texts": np.array(json.dumps(texts)), "rates": table.rates, "steps": table.steps}
    if diagnosis is not None:
        arrays |= {"diagnosed": diagnosis.steps, "used": diagnosis.rates}
        arrays |= {f"measure {name}": values for name, values in diagnosis.measures.items()}
    np.savez(sent, **arrays)
    command = [sys.executable, "-m", "lwexp.plots.rates", str(folder)]
    # In a new session: Ctrl-C is for the training.
    done = subprocess.run(command, input=sent.getvalue(), capture_output=True, start_new_session=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RunError(f"the plots of the plan cannot be drawn: {reason or f'exit code {done.returncode}'}")
    return [Path(path) for path in json.loads(done.stdout)]
