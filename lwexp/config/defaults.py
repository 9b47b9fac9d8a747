"""The folder `conf/` and its defaults; YAML files read and written as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parents[1]
CONF = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir())  # installed, or a checkout


def load(path: Path) -> Any:
    """The plain values in a YAML file, interpolations as they are written. Raises what OmegaConf and YAML raise."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


def dump(values: Mapping[str, Any]) -> str:
    """`values` as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))


def defaults(choice: str | None = None) -> dict[str, Any]:
    """The values of conf/config.yaml, or of one choice such as `tracking/mlflow`, without Hydra's own parts."""
    values = load(CONF / f"{choice or 'config'}.yaml")
    return {str(key): value for key, value in values.items() if key not in ("defaults", "hydra")}


def documented(choice: str | None = None) -> dict[str, tuple[str, str]]:
    """Dotted key -> its default as written and the comment beside it, of the file that `defaults` reads.

    >>> documented("tracking/mlflow")["timeout"][0], documented()["checkpoint.keep"][0]
    ('8.0', '2')
    """
    found: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in (CONF / f"{choice or 'config'}.yaml").read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)(\w+): *(.*?) *(?:# *(.*))?$", line)
        if match:
            path = [*path[: len(match[1]) // 2], match[2]]
            if path[0] not in ("defaults", "hydra"):
                found[".".join(path)] = match[3], match[4] or ""
    return found
