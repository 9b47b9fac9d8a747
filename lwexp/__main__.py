"""`python -m lwexp`: which commands there are."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .errors import nearest
from .formatting import version_line

COMMANDS = {
    "run": "train one model, or with -m a sweep of many",
    "study": "compare arms, each at its best base rate: do layer-wise rates help here?",
    "preview": "print and draw a run's plan without training",
    "find": "suggest a base rate by a range test, on request one for each group",
    "predict": "predict images or texts with the network of a run",
    "export": "write the network of a run for other programs: ONNX, torch.export",
    "report": "what can be concluded from a sweep",
    "evaluate": "how good a run's network is, class by class, also on other data",
    "ui": "open MLflow's page on the results",
    "sync": "deliver to MLflow what earlier runs could not",
}
_INTERNAL = ("plots.rates", "tracking.delivery_process", "inference.packaging")  # started by lwexp itself


def main(arguments: Sequence[str]) -> int:
    """Print the commands; returns the exit code."""
    if list(arguments) == ["--version"]:
        print(version_line())
        return 0
    if arguments and arguments[0] not in ("-h", "--help"):
        return _refuse(f"lwexp {arguments[0]}")
    print("\n".join(f"python -m lwexp.{name:<9} {what}" for name, what in COMMANDS.items()))
    return 0


def check_command(module: str) -> None:
    """End the process if `module`, which `python -m` is about to run, is none that can be run."""
    name = module.removeprefix("lwexp.").removesuffix(".__main__")
    if name not in (*COMMANDS, *_INTERNAL, "__main__"):
        sys.exit(_refuse(module))


def _refuse(module: str) -> int:
    near = nearest(module.replace(" ", "."), [f"lwexp.{name}" for name in COMMANDS])
    print(f"error: python -m {module}: is not a command; {near}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
