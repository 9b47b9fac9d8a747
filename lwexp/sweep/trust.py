"""A sweep's folder may come from somebody else: its `sweep.json` may set values, and never run code.

What counts is what Hydra composes from the saved overrides, whatever they look like. Whatever would run code and is
neither in what this command's own words compose nor in `checkpoint.allow_targets` is refused. Of Hydra's own part only
the sweeper and the launcher are taken from a file, with plain values.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lwexp.config.defaults import CONF
from lwexp.config.hydra_errors import as_lwexp_error
from lwexp.config.keys import leaves
from lwexp.config.overrides import key_of
from lwexp.errors import ConfigError, LwexpError
from lwexp.experiment.saved_config import allow_targets, code_in

ALLOW = "checkpoint.allow_targets"
_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w.\-/]*(=.*)?", re.DOTALL)  # no package (`@`): that moves a section elsewhere
_RESOLVER = re.compile(r"\$\{[^{}]*:")
_CHOICES = {
    "hydra/sweeper": ("grid", "optuna", "study"),
    "hydra/launcher": ("basic", "joblib", "submitit_slurm", "ray"),
}
_SECTIONS = ("hydra.sweeper.", "hydra.launcher.")
# Keys of a launcher whose texts are plain words for the cluster; others may be commands or addresses
_WORDS = ("name", "partition", "account", "qos", "constraint", "exclude", "comment", "gres", "backend", "prefer")
_WORD = re.compile(r"[\w.:,@%+\- ]*")
# What differs between any two commands, and is not obeyed; the search path cannot come from a choice's file
_OF_COMMAND = ("overrides", "searchpath", "runtime", "job.override_dirname", "job.num", "job.id", "mode", "sweep")
_SAYS = "file of the sweep, which must not; give it again"


def check_written(overrides: Iterable[str]) -> None:
    """Refuse saved `overrides` that could move what is checked, and most of Hydra's own options.

    Raises `ConfigError` on `sweep.resume`.
    """
    for override in overrides:
        key, value = key_of(override), override.partition("=")[2]
        obeyed = is_hydra(key) and not (value in _CHOICES.get(key, ()) or key.startswith(_SECTIONS))
        if obeyed or not _KEY.fullmatch(override) or "${" in override:
            raise ConfigError("sweep.resume", override, f"is set by a {_SAYS}")


def check_secrets(overrides: Iterable[str]) -> None:
    """Refuse saved `overrides` that had a secret."""
    for override in overrides:
        if "***" in override:
            raise ConfigError("sweep.resume", override, "its secret is not stored; give the sweep's whole command")


def quoted(text: str) -> str:
    """`text` as the value of an override."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def is_hydra(key: str) -> bool:
    """Whether the option `key` is one of Hydra's own."""
    return key == "hydra" or key.startswith(("hydra.", "hydra/"))


def compare(
    saved: Sequence[str], given: Sequence[str], saved_folder: str | None, given_folder: str | None
) -> tuple[list[str], str | None]:
    """What this command's own words, `given`, allow in what they compose together with the `saved` overrides.

    Returns the names of code that they compose or list, and the address of a store that only the file names, if it
    does. The folders are those of --config-dir. Raises `ConfigError` where other code would run.
    """
    given = [override for override in given if key_of(override) not in ("sweep.resume", "hydra.sweep.dir")]
    choices = [override for override in saved if key_of(override) in _CHOICES]
    choices = [override for override in choices if key_of(override) not in map(key_of, given)]
    whole = _compose([*saved, *given], given_folder or saved_folder)
    try:
        own = _compose([*choices, *given], given_folder)
    except LwexpError:  # options of a section whose choice is in the file
        own = _compose(choices, None)
    allowed = {*_listed(own), *(name for _, name in code_in(_main(own))), *_written_code(given)}
    _refuse({*(name for _, name in code_in(_main(whole))), *_written_code(saved)}, allowed)
    _check_resolvers(_main(whole), dict(leaves(_main(own))))
    _check_hydra(_hydra(whole), _hydra(own), {key_of(override) for override in given})
    uri = _store(whole)
    return sorted(allowed), uri if uri != _store(own) else None


def _refuse(code: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise `ConfigError` if `code` has names that are not `allowed`."""
    allowed = {*allowed}
    refused = {*code} - allowed
    if refused:
        allowing = shlex.quote(allow_targets(sorted({*allowed, *refused})))
        why = f"the sweep's settings would execute {', '.join(sorted(refused))}; allow it with {allowing}"
        raise ConfigError(ALLOW, f"[{','.join(sorted(allowed))}]", why)


@dataclass(frozen=True)
class Reference:
    """What a resumed sweep's own composed config says, to which its saved jobs are held."""

    allowed: frozenset[str]  # code that it names, in its overrides too, or allows
    main: Mapping[str, Any]  # by dotted key
    hydra: Mapping[str, Any]
    uri: str | None  # of the tracking store

    @classmethod
    def of(cls, sweep: DictConfig) -> Reference:
        """That of the composed config `sweep`."""
        typed, main = [str(override) for override in sweep.hydra.overrides.task], _main(sweep)
        code = {*_listed(sweep), *(name for _, name in code_in(main)), *_written_code(typed)}
        return cls(frozenset(code), dict(leaves(main)), dict(leaves(_hydra(sweep))), _store(sweep))

    def check(self, job: DictConfig) -> None:
        """Raise `ConfigError` if the composed config of a saved `job` runs other code, or sets Hydra otherwise."""
        main = _main(job)
        _refuse({name for _, name in code_in(main)}, self.allowed)
        _check_resolvers(main, self.main)
        if _store(job) not in (None, self.uri):
            raise ConfigError("sweep.resume", f"tracking.uri={_store(job)}", f"is set by a job's {_SAYS}")
        hydra = dict(leaves(_hydra(job)))
        for key in sorted({*hydra, *self.hydra}):
            if hydra.get(key) != self.hydra.get(key) and not _of_command(key):
                raise ConfigError("sweep.resume", f"hydra.{key}={hydra.get(key)}", f"is set by a job's {_SAYS}")


def _compose(overrides: Sequence[str], folder: str | None) -> DictConfig:
    """What Hydra composes of a sweep's command; nothing in it is instantiated. Raises `ConfigError`."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    path = [] if folder is None else [f"hydra.searchpath=[{quoted(f'file://{folder}')}]"]
    try:
        with initialize_config_dir(str(CONF), job_name="lwexp", version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            return loader.load_configuration("config", [*path, *overrides], RunMode.MULTIRUN)
    except Exception as error:
        known = as_lwexp_error(error, overrides)
        if known is None:
            raise
        raise known from None


def _main(config: DictConfig) -> dict[str, Any]:
    """lwexp's own part, interpolations as they are written."""
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def _hydra(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _store(config: DictConfig) -> str | None:
    uri = None if OmegaConf.select(config, "tracking.name") == "none" else OmegaConf.select(config, "tracking.uri")
    return None if uri is None else str(uri).strip()


def _listed(config: DictConfig) -> list[str]:
    names = OmegaConf.select(config, ALLOW)
    return [str(name) for name in ([names] if isinstance(names, str) else names)] if names else []


def _written_code(given: Sequence[str]) -> set[str]:
    """Code that overrides name, in each of several values: what Hydra composes of a sweep lacks these."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(given)):
        swept = override.is_sweep_override() and override.is_discrete_sweep()
        for value in override.sweep_iterator() if swept else [override.value()]:
            found |= {name for _, name in code_in({override.key_or_group: value})}
    return found


def _check_resolvers(main: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse what only a file makes Hydra look up elsewhere, such as environment variables."""
    for key, value in leaves(main):
        if isinstance(value, str) and _RESOLVER.search(value) and known.get(key) != value:
            raise ConfigError("sweep.resume", f"{key}={value}", f"is looked up elsewhere by a {_SAYS}")


def _check_hydra(whole: Mapping[str, Any], own: Mapping[str, Any], given: set[str]) -> None:
    """Refuse what Hydra would obey and this command does not say, but for plain values of sweeper and launcher."""
    known = dict(leaves(own))
    found = dict(leaves(whole))
    for key in sorted({*found, *known}):
        value = found.get(key)
        if known.get(key) == value or _of_command(key) or f"hydra.{key}" in given:
            continue
        section, _, name = key.partition(".")
        last = name.rpartition(".")[2]
        simple = not isinstance(value, str) or (last in _WORDS and bool(_WORD.fullmatch(value)))
        in_sweeper = section == "sweeper" and last != "_target_" and (name != "storage" or value is None)
        if not (in_sweeper or (section == "launcher" and key in known and simple)):
            raise ConfigError("sweep.resume", f"hydra.{key}={value}", f"is set by a {_SAYS}")


def _of_command(key: str) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in _OF_COMMAND)
