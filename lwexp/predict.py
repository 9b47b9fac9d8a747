"""`python -m lwexp.predict`: what the network of a run says about images or texts, as a table and a CSV file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config.command_options import Parser, exit_code_of, number, output_file, without_store
from .errors import ConfigError

_OPTIONS = ["tracking.uri"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: all is predicted; 1: something could not be read, or another failure; 2: invalid arguments (one line).
    """
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code_of("lwexp-predict", lambda: _predict(_parse(given)))


def _predict(given: Any) -> int:
    from .inference.items import image_items, text_items
    from .inference.loaded import load
    from .inference.prediction import predict_items, save_csv, table

    words, store = without_store(given.words)
    if not words:
        raise ConfigError("run", "", "give a run and what to predict: lwexp-predict latest my_photos")
    out = output_file("--out", given.out)
    batch_size = _count("--batch-size", given.batch_size)
    run = load(words[0], weights=given.weights, device=given.device, allow_targets=given.allow_target, options=store)
    top = min(_count("--top", given.top), len(run.classes))
    paths, notes = words[1:], list[str]()
    if run.kind == "text":
        if not paths and not given.text:
            raise ConfigError("path", "", f'the run in {run.folder} reads texts: give --text "…", or files of texts')
        items = text_items(paths, given.text, given.column)
    else:
        if given.text:
            raise ConfigError("--text", given.text[0], f"the run in {run.folder} reads images, not texts")
        if not paths:
            raise ConfigError("path", "", "give a folder of images, or files")
        items, notes = image_items(paths)
    for note in notes:
        print(f"lwexp-predict: {note}", file=sys.stderr)

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"{done} of {len(items)}", end="\r" if done < len(items) else "\n", file=sys.stderr)

    found = predict_items(run, items, batch_size, progress)
    for name, why in found.unreadable:
        print(f"lwexp-predict: {name}: {why}", file=sys.stderr)
    print(table(found, top))
    save_csv(found, out, top)
    left = f", {len(found.unreadable)} could not be read" if found.unreadable else ""
    count = len(found.items)
    print(f"{os.path.relpath(out)}: {count} prediction{'' if count == 1 else 's'}{left}")
    print(f"weights: {os.path.relpath(run.weights)}")
    return 1 if found.unreadable else 0


def _count(key: str, value: str) -> int:
    found = int(number(key, value, int))
    if found < 1:
        raise ConfigError(key, value, "must be 1 or more")
    return found


def _parse(arguments: Sequence[str]) -> Any:
    parser = Parser("lwexp-predict", "Predict images or texts with the network of a run.", _OPTIONS)
    parser.add_argument(
        "words", nargs="*", metavar="run, then files or folders",
        help="run: its folder, its MLflow id or the first digits, a sweep (its best run), or latest",
    )  # fmt: skip
    parser.add_argument("--text", action="append", default=[], help="a text to predict; may be given several times")
    parser.add_argument("--column", default="text", help="column of the texts in CSV, TSV and JSONL files (text)")
    parser.add_argument("--top", default="1", help="how many classes of each, the most likely first (1)")
    parser.add_argument("--batch-size", default="32", help="images or texts at a time (32)")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"), help="the file (predictions.csv)")
    parser.add_network_options()
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
