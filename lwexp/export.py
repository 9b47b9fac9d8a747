"""`python -m lwexp.export`: the network of a run as a file for other programs, checked against the network."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config.command_options import Parser, exit_code_of, output_file, without_store
from .errors import ConfigError, UnknownNameError

_OPTIONS = ["tracking.uri"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a network that cannot be exported, 2 for invalid arguments."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code_of("lwexp-export", lambda: _export(_parse(given)))


def _export(given: Any) -> int:
    from .inference.formats import FORMATS, check_extras, export
    from .inference.loaded import load

    words, store = without_store(given.words)
    if len(words) != 1:
        raise ConfigError("run", " ".join(words), "give one run: its folder, its MLflow id, a sweep, or latest")
    if given.to not in FORMATS:
        raise UnknownNameError("--to", given.to, FORMATS, "no such format")
    check_extras(given.to)
    if given.out is not None:
        output_file("--out", given.out)
    run = load(words[0], weights=given.weights, allow_targets=given.allow_target, options=store)
    path = given.out or Path(f"{run.folder.name}{FORMATS[given.to]}")
    print(f"exporting {os.path.relpath(run.weights)} …", file=sys.stderr, flush=True)
    made = export(run, given.to, path)
    print(f"{os.path.relpath(made.path)}: {made.bytes / 1e6:.1f} MB, inputs {', '.join(made.inputs)}")
    text = run.kind == "text"
    print(f"{os.path.relpath(made.facts)}: classes, {'longest text' if text else 'preprocessing'}")
    if text:
        print(f"{os.path.relpath(made.path)}.tokenizer: the tokenizer")
    print(f"largest difference to the network: {made.difference:.2g} of its largest output, batches of 2 and 3")
    return 0


def _parse(arguments: Sequence[str]) -> Any:
    parser = Parser("lwexp-export", "Write the network of a run as a file for other programs.", _OPTIONS)
    parser.add_argument(
        "words", nargs="*", metavar="run",
        help="its folder, its MLflow id or the first digits, a sweep (its best run), or latest",
    )  # fmt: skip
    parser.add_argument("--to", default="onnx", help="onnx (default), torch_export, torchscript")
    parser.add_argument("-o", "--out", type=Path, help="the file (default: the run's name with the format's ending)")
    parser.add_network_options(device=False)
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
