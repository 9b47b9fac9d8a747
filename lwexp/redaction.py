"""Passwords and tokens stay out of everything that is printed or written, also out of what Hydra prints and writes.

`tracking/address.py` knows what in an address is a secret. Here that is applied to log lines, to tracebacks, to the
output of `--cfg`, and to the files that Hydra would write with the config as it was typed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from omegaconf import DictConfig

_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST = 4  # a shorter value would take half of every text with it, and is no secret
_ADDRESS = re.compile(r"://|[?&][\w.-]+=")  # without these there is nothing to redact
_ESCAPED = re.compile(r"\\([:=?&@/])")
_SHOWING = ("--cfg", "-c", "--info", "-i")  # flags of Hydra's that print the config


def hide(text: str) -> str:
    r"""`text` without the secrets of addresses in it and without the values of MLflow's secret variables.

    >>> hide("no route to http://anna:s3cret@host:5000")
    'no route to http://anna:***@host:5000'
    >>> hide(r"tracking.uri=http\://t0ken@host\:5000")
    'tracking.uri=http://***@host:5000'
    """
    for variable in _VARIABLES:
        value = os.environ.get(variable, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    bare = _ESCAPED.sub(r"\1", text)  # Hydra writes the options of a sweep's jobs so
    if not _ADDRESS.search(bare):
        return text
    from .tracking.address import redact  # here, since `--help` should not wait for what comes with it

    return redact(text) if text == bare or redact(bare) == bare else redact(bare)


def hidden(values: Any) -> Any:
    """Nested mappings and lists with `hide` applied to every text; an interpolation around a secret is all secret."""
    if isinstance(values, Mapping):
        return {key: hidden(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [hidden(value) for value in values]
    if not isinstance(values, str):
        return values
    text = hide(values)
    return "***" if text != values and "${" in text else text


class HidingFormatter(logging.Formatter):
    """A formatter whose lines, tracebacks included, have no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line as `logging.Formatter` makes it, then hidden."""
        return hide(super().format(record))


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Around a command: uncaught errors and what `--cfg` shows are hidden, and a full disk does not break logging."""
    logging.raiseExceptions = False  # a handler that cannot write would print a traceback for every line
    sys.excepthook = _excepthook
    with contextlib.ExitStack() as stack:
        if any(argument.partition("=")[0] in _SHOWING for argument in sys.argv[1:]):
            stack.enter_context(contextlib.redirect_stdout(_HidingStream(sys.stdout)))
        yield


class _HidingStream(io.TextIOBase):
    """Whole lines, hidden, to another stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        self._stream.writelines(f"{hide(line)}\n" for line in lines)
        return len(text)

    def flush(self) -> None:
        self._stream.write(hide(self._line))
        self._line = ""
        self._stream.flush()


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(hide("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


# ------------------------------------------------------------------------------------------------- Hydra's own files


def write_hydra_files(config: DictConfig) -> None:
    """`.hydra/{config,hydra,overrides}.yaml` of the job that starts, as Hydra writes them, but hidden."""
    from omegaconf import OmegaConf

    folder = Path(str(config.hydra.runtime.output_dir)) / ".hydra"
    if (folder / "config.yaml").exists():  # those of the run's beginning stay when it goes on
        return
    folder.mkdir(parents=True, exist_ok=True)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    hydra = OmegaConf.masked_copy(config, "hydra")
    for name, part in (("config", own), ("hydra", hydra), ("overrides", config.hydra.overrides.task)):
        (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(hidden_config(part)), encoding="utf-8")


def write_multirun_file(config: DictConfig, folder: Path) -> None:
    """`multirun.yaml` of a sweep, as Hydra writes it, but hidden."""
    from omegaconf import OmegaConf

    (folder / "multirun.yaml").write_text(OmegaConf.to_yaml(hidden_config(config)), encoding="utf-8")


def hidden_config(config: Any) -> Any:
    """A copy for writing, interpolations as they stand, values that were resolved for good (the time) kept."""
    from omegaconf import OmegaConf

    copied = OmegaConf.create(hidden(OmegaConf.to_container(config, resolve=False, enum_to_str=True)))
    OmegaConf.copy_cache(config, copied)
    return copied
