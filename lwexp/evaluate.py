"""`python -m lwexp.evaluate`: how good the network of a run is, class by class, on its test split or on other data."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config.command_options import Parser, exit_code_of
from .errors import ConfigError, LwexpError, RunError, UnknownOptionError

if TYPE_CHECKING:
    from .inference.evaluation import Evaluation
    from .inference.loaded import LoadedRun

_OPTIONS = ["tracking.uri"]
_WORD_SECONDS = 5.0  # between two lines about how far it is
_KNOWN = ("data", "data.path", "batch_size", "tracking.uri")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a failure, 2 for invalid arguments (one line)."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code_of("lwexp-evaluate", lambda: _evaluate(_parse(given)))


def _evaluate(given: Any) -> int:
    if given.run is None or ("=" in given.run and not Path(given.run).exists()):
        raise ConfigError("run", given.run or "", "give a run first: lwexp-evaluate latest data.path=…")
    options = _options(given.options)
    choice, uri = options.pop("data", None), options.pop("tracking.uri", None)
    from .inference.evaluation import evaluate_run
    from .inference.evaluation_text import evaluation_text
    from .inference.loaded import load

    if given.out is not None:
        _check_out(given.out)
    store = {} if uri is None else {"tracking.uri": str(uri)}
    run = load(
        given.run, weights=given.weights, device=given.device, allow_targets=given.allow_target, options=store,
    )  # fmt: skip
    print(f"{os.path.relpath(run.weights)} ({run.task})", flush=True)
    evaluation = evaluate_run(
        run, options, choice=choice, split=given.split, skip_unknown=given.skip_unknown,
        allow_targets=given.allow_target, progress=_Progress(run.kind),
    )  # fmt: skip
    folder = given.out or _folder(run, evaluation, given.weights)
    files = _write(evaluation, folder)
    print(evaluation_text(evaluation))
    print(f"\n{os.path.relpath(folder)}: {', '.join(path.name for path in files)}")
    if given.attach:
        _attach(run, _name(evaluation, given.weights), files, uri)
    sys.stdout.flush()
    return 0


def _folder(run: LoadedRun, evaluation: Evaluation, weights: str) -> Path:
    from .experiment.evaluation_files import FOLDER

    return run.folder / FOLDER / _name(evaluation, weights)


def _name(evaluation: Evaluation, weights: str) -> str:
    """Of the folder and in MLflow: that of the best weights is the data's alone."""
    return evaluation.name if weights == "best" else f"{evaluation.name}_{weights}"


def _check_out(folder: Path) -> None:
    """Raise `ConfigError` for a folder in which files of the user would be replaced."""
    from .experiment.evaluation_files import FILES

    if folder.is_symlink():
        raise ConfigError("--out", folder, "is a link to another place; give the folder itself")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("--out", folder, "is a file; give the name of a folder")
    there = [name for name in FILES if os.path.lexists(folder / name)]
    if there and "metrics.json" not in there:
        why = f"holds {there[0]}, which is not of an evaluation and would be replaced; give another folder"
        raise ConfigError("--out", folder, why)


def _write(evaluation: Evaluation, folder: Path) -> list[Path]:
    from .experiment.evaluation_files import write_evaluation

    try:
        return write_evaluation(evaluation.details, evaluation.data, folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}; --out names another folder") from None


def _attach(run: LoadedRun, name: str, files: Sequence[Path], uri: str | None) -> None:
    """Put the files beside the run's own artifacts in MLflow."""
    from .config.command_options import tracking_config
    from .tracking import started_in
    from .tracking.reader import StoreReader
    from .tracking.redelivery import delivery_address, read_run

    config = tracking_config([] if uri is None else [f"tracking.uri={uri}"], _OPTIONS)
    recorded = read_run(run.folder / "journal.lwexp") if (run.folder / "journal.lwexp").is_file() else None
    run_id = recorded.state.run_id if recorded is not None else None
    if recorded is None or run_id is None:
        raise ConfigError("--attach", run.folder, "the run is not in MLflow; python -m lwexp.sync delivers it")
    address, _ = delivery_address(recorded, config)
    store = StoreReader(config.model_copy(update={"uri": address}), started_in(run.folder) or Path.cwd())
    place = f"evaluation/{name}"
    store.attach(run_id, files, place)
    print(f"attached to run {run_id} in MLflow ({place}/)")


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and values. Raises `ConfigError` for what is no option of an evaluation."""
    from .config.overrides import parse_overrides

    for word in words:
        if "=" not in word:
            why = "is neither an option (key=value) nor the run, which comes first; data are named data.path=…"
            raise ConfigError("command line", word, why)
    try:
        values, _ = parse_overrides(words)
    except LwexpError:
        raise
    except Exception as error:  # Hydra's parser has several
        raise ConfigError("command line", " ".join(words), f"cannot be read: {str(error).splitlines()[0]}") from None
    for key, value in values.items():
        if key not in _KNOWN and not key.startswith("data."):
            raise UnknownOptionError(key, value, _KNOWN, "is not an option of an evaluation")
    return values


class _Progress:
    """How far it is: on a terminal after each batch, in a log every few seconds."""

    def __init__(self, kind: str) -> None:
        self._kind, self._last = kind, time.monotonic()

    def __call__(self, done: int, count: int) -> None:
        if sys.stderr.isatty():
            print(f"{done:,} of {count:,} {self._kind}s", end="\r" if done < count else "\n", file=sys.stderr)
        elif time.monotonic() - self._last >= _WORD_SECONDS:
            self._last = time.monotonic()
            print(f"{done:,} of {count:,} {self._kind}s", file=sys.stderr)


def _parse(arguments: Sequence[str]) -> Any:
    what = "Evaluate the network of a run, class by class: on its test split (else its validation split) or other data."
    parser = Parser("lwexp-evaluate", what, _OPTIONS)
    parser.add_argument(
        "run", nargs="?", help="its folder, its MLflow id or the first digits, a sweep (its best run), or latest",
    )  # fmt: skip
    parser.add_argument(
        "options", nargs="*", metavar="key=value",
        help="other data, as for lwexp.run: data=image_folder data.path=photos; batch_size=64. Classes are matched by "
        "name",
    )  # fmt: skip
    parser.add_argument("--split", help="train, val or test (default: test, else val, else all)")
    parser.add_argument("--skip-unknown", action="store_true", help="leave aside classes that the model does not know")
    parser.add_argument("--out", type=Path, help="folder for the files (default: evaluation/<data> in the run's)")
    parser.add_argument("--attach", action="store_true", help="put the files into the run in MLflow as well")
    parser.add_network_options(code="network or data are")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
