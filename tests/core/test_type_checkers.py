"""Type checkers on a user's scripts: they find every planted mistake and nothing in a correct script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import lwexp
from tests.helpers.commands import ROOT

SCRIPTS = Path(__file__).parent / "user_scripts"  # not named .py: pytest would import them
MISTAKEN = {
    number
    for number, line in enumerate((SCRIPTS / "mistaken.py.txt").read_text(encoding="utf-8").splitlines(), 1)
    if line.endswith("# mistake")
}
Lines = set[tuple[str, int]]


def mypy(folder: Path) -> Lines:
    """Places of the errors that `mypy --strict` finds in the scripts of `folder`."""
    # Config and cache of the project's own check: most of the time goes into torch, which is then read once for both.
    options = ["--strict", "--no-error-summary", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", str(ROOT / ".mypy_cache"), str(folder)],
        capture_output=True, text=True, check=False, env={**os.environ, "MYPYPATH": str(ROOT)}, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    errors = [line.split(":") for line in done.stdout.splitlines() if ": error:" in line]
    return {(Path(path).name, int(number)) for path, number, *_ in errors}


def basedpyright(folder: Path) -> Lines:
    config = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "include": [str(folder)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found}


@pytest.mark.parametrize("checker", [mypy, basedpyright])
def test_planted_mistakes_are_found_and_nothing_else(checker: Callable[[Path], Lines], tmp_path: Path) -> None:
    for name in ("correct.py", "mistaken.py"):
        shutil.copy(SCRIPTS / f"{name}.txt", tmp_path / name)
    assert len(MISTAKEN) == 3
    assert checker(tmp_path) == {("mistaken.py", number) for number in MISTAKEN}


@pytest.mark.filterwarnings("ignore::lwexp.errors.NoLayerwiseRatesWarning")  # by_name with one pattern
def test_the_correct_script_is_correct() -> None:
    script: dict[str, Any] = {"__name__": "script"}
    exec(compile((SCRIPTS / "correct.py.txt").read_text(encoding="utf-8"), "correct.py", "exec"), script)
    layers = {"stem": nn.Linear(2, 2), "layer4": nn.Linear(2, 2), "head": nn.Linear(2, 1)}
    plans = script["plans"](nn.Sequential(OrderedDict(layers)), {"mult": 0.9})
    assert [len(plan) for plan in plans] == [6, 2, 1, 3]
    assert len(script["schedulers"](plans[0], "linear")) == 5
    assert script["read"](plans[3])[3] == ""
    with pytest.raises(lwexp.ConfigError) as caught:
        plans[0].optimizer("adamm")
    assert script["failed"](caught.value)
