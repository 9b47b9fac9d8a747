"""The files that Hydra writes about a job and a sweep, without passwords and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lwexp.redaction import redact_values


def write_hydra_files(config: DictConfig) -> None:
    """`.hydra/{config,hydra,overrides}.yaml` of the job that starts, as Hydra writes them; a resumed run's stay."""
    folder = Path(str(config.hydra.runtime.output_dir)) / ".hydra"
    if (folder / "config.yaml").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    hydra = OmegaConf.masked_copy(config, "hydra")
    for name, part in (("config", own), ("hydra", hydra), ("overrides", config.hydra.overrides.task)):
        (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(redact_config(part)), encoding="utf-8")


def write_multirun_file(config: DictConfig, folder: Path) -> None:
    """`multirun.yaml` of a sweep, as Hydra writes it."""
    (folder / "multirun.yaml").write_text(OmegaConf.to_yaml(redact_config(config)), encoding="utf-8")


def redact_config(config: Any) -> Any:
    """A copy to be written: interpolations as they stand, values that were resolved once (the time) as they are."""
    copied = OmegaConf.create(redact_values(OmegaConf.to_container(config, resolve=False, enum_to_str=True)))
    OmegaConf.copy_cache(config, copied)
    return copied
