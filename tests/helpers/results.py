"""The result of a run as its folder keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lwexp.experiment.folder import COST


def metrics_in(folder: Path) -> dict[str, Any]:
    """What `result.json` has, without the cost, which no two runs have in common."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in COST}
