"""The folder `conf/` and its defaults; YAML files read and written as plain values."""

from __future__ import annotations

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
