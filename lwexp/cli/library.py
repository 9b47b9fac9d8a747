"""A run from Python: the config composed as the command line composes it, trained in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.defaults import CONF
from lwexp.errors import ConfigError

from .app import register
from .arguments import check_arguments

if TYPE_CHECKING:
    from lwexp.experiment.job import RunResult
    from lwexp.training.callbacks import Callback


def run_job(*overrides: str, callbacks: Mapping[str, Callback] | Sequence[Callback] = ()) -> RunResult:
    """Train as `python -m lwexp.run <overrides>` does, in this process; for notebooks and scripts.

    `callbacks` come after those of the config; in a list they are named by their classes. Relative paths, such as
    outputs/, start at the current folder. Returns the run's folder, its MLflow id and its metrics: those of the best
    evaluation, `val/…`, and of the test split with those weights, `test/…`.

    Raises `lwexp.LwexpError` where the command would print a line and exit: `ConfigError` for a mistake in `overrides`.

    >>> result = run_job("model=lstm", "mult=0.9", "epochs=1")  # doctest: +SKIP
    >>> result.folder, result.metrics["test/accuracy"]  # doctest: +SKIP
    (PosixPath('outputs/runs/2026-11-28_12-00-00_1b9e4f'), 0.43)
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from lwexp.experiment.folder import NewFolder, own_folder
    from lwexp.sweep.composed_run import run_composed

    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise ConfigError(
                "run_job", override, "takes options such as 'mult=0.9', no flags; sweeps need the command"
            )
    register("runs")
    arguments = check_arguments(overrides, own_folder=True)
    if arguments[len(arguments) - 1 :] == ["-m"]:
        raise ConfigError("sweep.resume", "", "run_job is one run; resume a sweep with python -m lwexp.run")
    composed = _compose(arguments)
    folder = Path(str(composed.hydra.run.dir)).absolute()
    with open_dict(composed):
        composed.hydra.runtime.output_dir, composed.hydra.runtime.cwd = str(folder), str(Path.cwd())
    new = NewFolder.before_made(folder)
    new.lock = own_folder(folder, composed.resume)
    hydra: Any = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(composed)
    try:
        with _shown(folder):
            return run_composed(composed, callbacks=_named(callbacks))
    except BaseException:
        new.remove_if_unused()
        raise
    finally:
        hydra.cfg = before
        new.release()


def _compose(arguments: Sequence[str]) -> Any:
    """The config, with Hydra's own part. Raises `LwexpError`."""
    from hydra import compose, initialize_config_dir

    from lwexp.config.hydra_errors import as_lwexp_error

    try:
        with initialize_config_dir(str(CONF), job_name="lwexp", version_base="1.3"):
            return compose("config", list(arguments), return_hydra_config=True)
    except Exception as error:
        known = as_lwexp_error(error, arguments)
        if known is None:
            raise
        raise known from None


def _named(callbacks: Mapping[str, Callback] | Sequence[Callback]) -> dict[str, Callback]:
    if isinstance(callbacks, Mapping):
        return dict(callbacks)
    named: dict[str, Callback] = {}
    for callback in callbacks:
        name = type(callback).__name__
        count = sum(other == name or other.startswith(f"{name}-") for other in named)
        named[f"{name}-{count + 1}" if count else name] = callback
    return named


@contextmanager
def _shown(folder: Path) -> Iterator[None]:
    """The run's log in its folder, and on the screen unless the caller has set up logging."""
    from lwexp.redaction import RedactingFormatter

    root, own = logging.getLogger(), logging.getLogger("lwexp")
    handlers: list[logging.Handler] = [logging.FileHandler(folder / "lwexp.log", encoding="utf-8")]
    handlers[0].setFormatter(RedactingFormatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    if not root.handlers:
        handlers.append(logging.StreamHandler(sys.stdout))
        handlers[-1].setFormatter(RedactingFormatter("%(message)s"))
    level = own.level
    own.setLevel(logging.INFO)
    for handler in handlers:
        own.addHandler(handler)
    try:
        yield
    finally:
        own.setLevel(level)
        for handler in handlers:
            own.removeHandler(handler)
            handler.close()
