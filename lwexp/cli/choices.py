"""Hydra plugins: choices without a file (`model=<any timm name>`, `optimizer=<any name>`, `recipe=<name>`) and their
completion.

Files under `conf/` win over these names. Whether a name exists is known only to timm or torch, which are not imported
here: `--help`, `--cfg job` and a mistyped option answer at once, and the name is checked when the run looks it up.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from lwexp.config import recipes
from lwexp.host.files import atomic_write

GROUPS = ("model", "optimizer", "recipe")


class NamedChoices(ConfigSource):
    """`model/<name>`, `optimizer/<name>` and `recipe/<name>` as if a file of that name existed."""

    @staticmethod
    def scheme() -> str:
        """The scheme of this source in Hydra's search path."""
        return "lwexp"

    def load_config(self, config_path: str) -> ConfigResult:
        """The config that a file for this name would hold."""
        path = config_path.removesuffix(".yaml")
        if recipes.is_choice(path):
            held, package = recipes.config_of(path)
            header: dict[str, str | None] = {"package": package}
            return ConfigResult(self.provider, f"lwexp://{config_path}", OmegaConf.create(held), header=header)
        group, _, name = path.partition("/")
        values = {"source": "timm", "name": name} if group == "model" else {"name": name}
        config = OmegaConf.create(values)
        return ConfigResult(self.provider, f"lwexp://{config_path}", config, header={"package": None})

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether `config_path` is one of the groups served here."""
        return config_path.rstrip("/") in GROUPS

    def is_config(self, config_path: str) -> bool:
        """Any single name of a model or an optimizer may exist."""
        path = config_path.removesuffix(".yaml")
        group, _, name = path.partition("/")
        named = group in ("model", "optimizer") and bool(name) and "/" not in name
        return recipes.is_choice(path) or named

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """All names where a shell asks for completions; none elsewhere, `--help` would list 1,371 models."""
        if config_path.rstrip("/") == "recipe":
            return recipes.names() if results_filter != ObjectType.GROUP else []
        if config_path.rstrip("/") == "model" and results_filter != ObjectType.GROUP and _completing():
            return model_names()
        return []


class NamedChoicesPath(SearchPathPlugin):
    """Puts `NamedChoices` behind the config folders."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source."""
        search_path.append("lwexp", "lwexp://")


def register() -> None:
    """Make the plugins known to Hydra, once."""
    plugins = Plugins.instance()
    if NamedChoices not in plugins.discover(ConfigSource):
        plugins.register(NamedChoices)
        plugins.register(NamedChoicesPath)


def model_names() -> list[str]:
    """Names of timm's models, from the user's cache folder: importing timm takes seconds, too long for a Tab key."""
    from importlib.metadata import version

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lwexp"
    kept = folder / f"timm-{version('timm')}.txt"
    if kept.is_file():
        return kept.read_text(encoding="utf-8").split()
    from lwexp.models.timm_source import timm_names

    names = timm_names()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, "\n".join(names), durable=False)
    except OSError:  # a home that cannot be written to: slower, not wrong
        return names
    return names


def _completing() -> bool:
    return any(argument in ("-sc", "--shell-completion") for argument in sys.argv)
