"""`resume=<run folder or MLflow run id>`: the run that is meant, and its config as the start of what Hydra composes.

What a run's `config.yaml` holds was perhaps written by somebody else, so it may set values and never run code: the
file is read as plain YAML, interpolations in it are refused, and so is every `_target_` that the command line does not
allow.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.defaults import defaults, load
from lwexp.config.keys import GROUPS, flatten, leaves
from lwexp.errors import ConfigError, LwexpError
from lwexp.formatting import one_line

if TYPE_CHECKING:
    from lwexp.config.schema import MLflowConfig

_ID = re.compile(r"[0-9a-fA-F]{6,32}")
_SAVED = "saved/run"  # as `model=saved/run`: Hydra's name of what the run has there
_REST = "+lwexp=saved"  # the same for all that is in no group
_TARGETS = {f"{group}.target" for group in GROUPS}  # the schema's own name of `_target_`, should it be let in
_CODE_KEYS = ("trust_remote_code",)  # options of libraries that let them run code of others
_taken: list[str] = []  # the folder of the run that this command goes on with
_SKIPPED = {"mlartifacts", "checkpoints", ".hydra"}  # folders below outputs/ that hold no run's folder


def with_saved_config(overrides: Sequence[str], *, multirun: bool, own_folder: bool) -> list[str]:
    """The command line's `overrides` with `resume=<run>` replaced by what makes Hydra take that run's config.

    `own_folder`: Hydra's run folder becomes that of the run. Without `resume=`, or with resume=auto, `overrides` come
    back as they are. Raises `ConfigError` for a run that is not there and for a config that cannot be taken.
    """
    _taken.clear()
    given = [override for override in overrides if _is_resume(override)]
    value = _unquoted(given[-1].partition("=")[2]) if given else ""
    if value in ("", "null", "auto"):
        return list(overrides)
    others = [override for override in overrides if override not in given]
    typed, chosen = _typed(others)
    if multirun or str(typed.get("hydra.mode", "")).upper() == "MULTIRUN":
        raise ConfigError("resume", value, "is one run, and -m starts many; resume=auto goes on with each job's own")
    if own_folder and "hydra.run.dir" in typed:
        raise ConfigError("hydra.run.dir", typed["hydra.run.dir"], "resume goes on in the run's own folder")
    folder = find_run(value, typed)
    saved = saved_config(folder)
    for section in chosen:
        saved.pop(section, None)
    _refuse_code(saved, typed)
    _refuse_secrets(saved, typed, folder)
    _taken.append(str(folder))
    return [*_registered(saved, folder, own_folder), *others]


def taken_up() -> str | None:
    """The folder of the run that the command line has named, if it has."""
    return _taken[0] if _taken else None


def asked(overrides: Sequence[str]) -> list[str]:
    """`overrides` without those that `with_saved_config` has added."""
    added = {_REST, *(f"{group}={_SAVED}" for group in GROUPS)}
    return [override for override in overrides if override not in added]


def command(folder: Path, base: Path, values: Mapping[str, Any]) -> str:
    """The shell command that goes on with the run in `folder` from the folder `base`; `values` is the run's config."""
    shown = shown_path(folder, base)
    words = ["python", "-m", "lwexp.run", f"resume={f'./{shown}' if shown == 'auto' else shown}"]
    targets = sorted({name for _, name in code_in(values)})
    return shlex.join([*words, *([_allowing(targets)] if targets else [])])


def shown_path(folder: Path, base: Path) -> str:
    """`folder` from `base`, absolute where it is elsewhere."""
    return os.path.relpath(folder, base) if folder.is_relative_to(base) else str(folder)


# --------------------------------------------------------------------------------------------------- which run is meant


def find_run(value: str, typed: Mapping[str, Any] | None = None) -> Path:
    """The absolute folder of the run `value`: a path, or an MLflow run id or the first six or more of its digits.

    An id is looked for in the runs below outputs/, then in the MLflow store that the options `typed` name.
    """
    from lwexp.tracking import has_run

    path = Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 (resolve() would follow links)
    if path.is_dir():
        if not has_run(path) and any((path / name).exists() for name in ("best.safetensors", "checkpoints")):
            raise ConfigError("resume", value, "holds a run without its journal, which cannot go on")
        if not (path / "config.yaml").is_file():
            raise ConfigError("resume", value, f"holds no run; {_newest()}")
        return path
    if path.exists():
        raise ConfigError("resume", value, f"is a file; give the run's folder; {_newest()}")
    folder = find_by_id("resume", value, typed or {}, _run_folders(), _newest())
    if not (folder / "config.yaml").is_file():
        raise ConfigError("resume", value, f"the run's folder {folder} is not on this machine; give its present place")
    return folder


def find_by_id(key: str, value: str, typed: Mapping[str, Any], folders: Iterable[Path], newest: str) -> Path:
    """The folder of the run whose MLflow id is `value` or begins with it: one of `folders`, else as its store says.

    `key` is the option that named it, `typed` the options that name the store; mistakes end with `newest`.
    """
    if not _ID.fullmatch(value):
        raise ConfigError(key, value, f"no such folder, and no MLflow run id; {newest}")
    found = {id_: folder for id_, folder in _local_ids(folders) if id_.startswith(value.lower())}
    why = "no run of that id is below outputs/"
    if not found:
        try:
            found = _ids_of_store(value.lower(), typed)
            why += " or in the tracking store"
        except LwexpError as error:
            why += f", and {error}"
    if len(found) > 1:
        raise ConfigError(key, value, f"could be {' or '.join(sorted(found)[:3])}; give more digits")
    if not found:
        raise ConfigError(key, value, f"{why}; {newest}")
    (folder,) = found.values()
    return folder


def _run_folders() -> Iterator[Path]:
    """Folders of runs below outputs/, in any order."""
    from lwexp.tracking import has_run

    for root, folders, files in os.walk("outputs"):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        if "config.yaml" in files and has_run(Path(root)):
            yield Path(root)


def _newest(count: int = 3) -> str:
    found = sorted(_run_folders(), key=lambda folder: (folder / "config.yaml").stat().st_mtime_ns, reverse=True)
    if not found:
        return "there are no runs below outputs/"
    return f"the newest {'runs are' if len(found) > 1 else 'run is'} {', '.join(map(str, found[:count]))}"


def _local_ids(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    import json

    for folder in folders:
        try:
            found = json.loads((folder / "delivery.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not delivered yet
        if isinstance(found, dict) and isinstance(found.get("run_id"), str):
            yield found["run_id"], folder.absolute()


def _ids_of_store(start: str, typed: Mapping[str, Any]) -> dict[str, Path]:
    """Ids that begin with `start` and their runs' folders, from the store; empty where there is none."""
    from lwexp.tracking import resolve_uri
    from lwexp.tracking.address import is_missing
    from lwexp.tracking.reader import StoreReader

    config = _tracking(typed)
    if config is None or is_missing(resolve_uri(config, Path.cwd())):
        return {}
    store = StoreReader(config, Path.cwd())
    runs = store.search(list(store.experiments().values()), f"attributes.run_id LIKE '{start}%'")
    folders = {run.id: run.tags.get("lwexp.folder") for run in runs}
    return {id_: Path(folder) for id_, folder in folders.items() if folder}


def _tracking(typed: Mapping[str, Any]) -> MLflowConfig | None:
    """The store that the command line names; None with tracking=none."""
    from lwexp.config.schema import MLflowConfig

    if typed.get("tracking") == "none" or typed.get("tracking.name") == "none":
        return None
    uri = typed.get("tracking.uri")
    return MLflowConfig(**defaults("tracking/mlflow") | ({"uri": str(uri)} if uri is not None else {}))


# ----------------------------------------------------------------------------------------------------------- its config


def saved_config(folder: Path) -> dict[str, Any]:
    """The plain values of the run in `folder`, without what is asked for anew each time.

    Raises `ConfigError` for a file that is not such a config, or that holds what Hydra would resolve or obey.
    """
    try:
        values = load(folder / "config.yaml")
    except Exception as error:  # the file's, YAML's and OmegaConf's errors have no common parent
        raise ConfigError("resume", folder, f"its config.yaml cannot be read: {one_line(error)}") from None
    if not isinstance(values, dict) or not values:
        raise ConfigError("resume", folder, "its config.yaml is no config of a run")
    for key, value in leaves(values):
        if isinstance(value, str) and "${" in value:
            raise ConfigError("resume", folder, f"its config.yaml refers to something else: {key}={value}")
    for section in (values, *(values.get(group) for group in GROUPS)):
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError("resume", folder, "its config.yaml is no config of a run: a group is not a section")
        for key in ("hydra", "defaults"):
            if section is not None and key in section:
                raise ConfigError("resume", folder, f"its config.yaml has a part {key!r}, which no run writes")
    for key in ("resume", "preview"):
        values.pop(key, None)
    if isinstance(values.get("checkpoint"), dict):
        for key in ("remap", "allow_targets"):  # of the one command that said so
            values["checkpoint"].pop(key, None)
    return {str(key): value for key, value in values.items()}


def code_in(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and name of everything in the config `values` that would run code which the config itself names.

    >>> list(code_in({"model": {"_target_": "my.Net", "trust_remote_code": True}}))
    [('model._target_', 'my.Net'), ('model.trust_remote_code', 'model.trust_remote_code')]
    """
    for key, value in leaves(values, path):
        last = key.rpartition(".")[2]
        if (last == "_target_" or key in _TARGETS) and value is not None:
            yield key, str(value)
        elif last in _CODE_KEYS and value not in (False, None):
            yield key, key


def _refuse_code(saved: Mapping[str, Any], typed: Mapping[str, Any]) -> None:
    given = typed.get("checkpoint.allow_targets") or []
    allowed = [str(name) for name in given] if isinstance(given, list) else [str(given)]
    found = [name for key, name in code_in(saved) if key not in typed and name not in allowed]
    if found:
        names = sorted({*allowed, *found})
        why = f"the run's config would execute {', '.join(sorted(set(found)))}"
        raise ConfigError(
            "checkpoint.allow_targets",
            f"[{','.join(allowed)}]",
            f"{why}; allow it with {shlex.quote(_allowing(names))}",
        )


def _refuse_secrets(saved: dict[str, Any], typed: Mapping[str, Any], folder: Path) -> None:
    """Passwords are not kept in a run's folder: an address that had one must be given again."""
    tracking = saved.get("tracking")
    if isinstance(tracking, dict) and "***" in str(tracking.get("uri")) and os.environ.get("MLFLOW_TRACKING_URI"):
        tracking["uri"] = None
    for key, value in leaves(saved):
        if isinstance(value, str) and "***" in value and "://" in value and key not in typed:
            again = "with the option or MLFLOW_TRACKING_URI" if key == "tracking.uri" else f"with {key}=…"
            raise ConfigError(key, value, f"the secret in it was not kept in {folder.name}; give it again {again}")


def _registered(saved: Mapping[str, Any], folder: Path, own_folder: bool) -> list[str]:
    """Make `saved` known to Hydra; returns the overrides by which it is composed, before those of the user."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    if "${" in str(folder):
        raise ConfigError("resume", folder, "a folder with ${ in its name cannot be written in a config")
    store = ConfigStore.instance()
    added = []
    rest = {key: value for key, value in saved.items() if key not in GROUPS}
    rest["resume"] = str(folder)
    if own_folder:
        rest["hydra"] = {"run": {"dir": str(folder)}, "output_subdir": None}  # its first .hydra/ stays
    for group in (group for group in GROUPS if group in saved):
        node = OmegaConf.create(dict(saved[group]))
        store.store(name="run", group=f"{group}/saved", package=group, node=node, provider="lwexp")
        added.append(f"{group}={_SAVED}")
    store.store(name="saved", group="lwexp", package="_global_", node=OmegaConf.create(rest), provider="lwexp")
    return [*added, _REST]


def _typed(overrides: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """Dotted keys with their values, and the groups in which a choice was made. Deletions are refused."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values: dict[str, Any] = {}
    chosen: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if override.is_delete():
            raise ConfigError(f"~{key}", value, "nothing can be deleted from the config of a run that goes on")
        values.update(flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value})
        if key in GROUPS and not isinstance(value, Mapping):
            chosen.add(key)
    return values, chosen


def _allowing(names: Sequence[str]) -> str:
    shown = (name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else f"'{name}'" for name in names)
    return f"checkpoint.allow_targets=[{','.join(shown)}]"


def _is_resume(override: str) -> bool:
    return override.lstrip("+").partition("=")[0] == "resume" and "=" in override


def _unquoted(text: str) -> str:
    """`text` as the shell left it, without quotes that are for Hydra."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
