"""The README is true: its Python runs, its commands run, its plan is what preview prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, Outcome

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("python -m lwexp.") and "lwexp.ui" not in line
]
TUTORIALS = re.findall(r"^\| [^|`]+ \| `([^|`]+=[^|`]+)` \|$", TEXT, flags=re.MULTILINE)
SHORT = ["max_steps=2", "progress=false", "tracking=none", "batch_size=16"]


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("line", [line for line in COMMANDS if "lwexp.run -m" not in line])
def test_commands_run(line: str, lwexp_here: Callable[..., Outcome], tmp_path: Path) -> None:
    for _, block in BLOCKS:
        if found := re.match(r"# (my_\w+\.py)\n", block):
            (tmp_path / found[1]).write_text(block, encoding="utf-8")
    _, _, module, *arguments = shlex.split(line)
    # resnet18 is trained elsewhere; the same options on the small LSTM or a short training show that they exist
    short = [*SHORT, "policy.warmup_steps=1"] if "policy.warmup_steps" in line and ".run" in module else SHORT
    short = [*short, "weights.epochs=1"] if "source_task" in line else short
    short = ["batch_size=64", "progress=false"] if ".preview" in module else short
    short = [s.replace("max_steps=2", "max_steps=41") if "step: 40" in line else s for s in short]
    small = ["model=resnet10t"] if "model=" not in line and "layer4.1" not in line else []
    small, short = ([], []) if ".sync" in module else (small, short)
    outcome = lwexp_here(module.removeprefix("lwexp."), *arguments, *small, *short)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("options", TUTORIALS)
def test_tutorials_options_give_a_plan(options: str, lwexp_here: Callable[..., Outcome]) -> None:
    outcome = lwexp_here("preview", "model=resnet18", *shlex.split(options))
    assert outcome.code == 0, outcome.err
    assert "resnet" in outcome.out.lower()


def test_tutorials_are_all_there() -> None:
    assert len(TUTORIALS) == 7
    assert len(COMMANDS) >= 8


def test_printed_plan_is_what_preview_prints(lwexp_here: Callable[..., Outcome]) -> None:
    shown = next(block for language, block in BLOCKS if language == "text")
    line = next(line for line in COMMANDS if "lwexp.preview" in line)
    outcome = lwexp_here("preview", *shlex.split(line)[3:])
    assert shown.strip() in outcome.out


def test_ci_calls_the_test_command_word_for_word() -> None:
    (command,) = [line for line in TEXT.splitlines() if line.startswith("python3 -m venv") and "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
