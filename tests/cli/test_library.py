"""`lwexp.run_job`: a run from Python is the run of the command line, with errors raised and results returned."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from safetensors.torch import load_file

import lwexp
from lwexp.training.state import StepResult
from tests.helpers.commands import RunHere

SMALL = ["model=lstm", "model.hidden_size=8", "mult=0.5", "epochs=1", "max_steps=3", "tracking=none", "progress=false"]


class Steps(lwexp.Callback):
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def step_end(self, result: StepResult) -> None:
        self.numbers.append(result.number)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_is_the_run_of_the_command(lwexp_here: RunHere, tmp_path: Path) -> None:
    steps = Steps()
    result = lwexp.run_job(*SMALL, callbacks=[steps])
    assert steps.numbers == [0, 1, 2]
    assert set(result.metrics) >= {"val/accuracy", "test/accuracy"}
    assert result.folder.parent == tmp_path / "outputs" / "runs"
    outcome = lwexp_here("run", *SMALL, "hydra.run.dir=outputs/command")
    assert outcome.code == 0, outcome.err
    for name in ("model", "best"):
        ours, theirs = (
            load_file(result.folder / f"{name}.safetensors"),
            load_file(f"outputs/command/{name}.safetensors"),
        )
        assert all(ours[key].equal(theirs[key]) for key in theirs)
    assert (result.folder / "config.yaml").read_text() == Path("outputs/command/config.yaml").read_text()


def test_what_the_command_logs_is_in_the_folder_and_logging_stays_the_callers(tmp_path: Path) -> None:
    before = logging.getLogger("lwexp").level, list(logging.getLogger("lwexp").handlers)
    result = lwexp.run_job(*SMALL)
    assert "best validation accuracy" in (result.folder / "lwexp.log").read_text()
    assert (logging.getLogger("lwexp").level, logging.getLogger("lwexp").handlers) == before


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("mult=x", "mult=x: should be a valid number"),
        ("decay=lin", "decay=lin: no such choice; did you mean linear?"),
        ("modle=lstm", "modle=lstm: unknown option; did you mean model?"),
        ("data.path=x", "data.path=x: "),
        ("resume=nowhere", "resume=nowhere: "),
        ("-m", "run_job=-m: takes options"),
        ("seed=0,1", "seed=0,1: several values are for a sweep"),
    ],
)
def test_a_mistake_is_raised_and_leaves_nothing(tmp_path: Path, override: str, line: str) -> None:
    with pytest.raises(lwexp.ConfigError) as caught:
        lwexp.run_job(*SMALL, override)
    assert str(caught.value).startswith(line)
    assert not list(tmp_path.glob("outputs/runs/*"))


def test_a_run_is_resumed(tmp_path: Path) -> None:
    class Stop(lwexp.Callback):
        def step_end(self, result: StepResult) -> None:
            if result.number == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lwexp.run_job(*SMALL, "checkpoint.every_steps=1", "hydra.run.dir=run", callbacks=[Stop()])
    steps = Steps()
    lwexp.run_job("resume=run", callbacks={"steps": steps})
    assert steps.numbers == [1, 2]


def test_callbacks_of_one_class_have_names_of_their_own() -> None:
    class Fails(lwexp.Callback):
        def step_end(self, result: StepResult) -> None:
            raise ValueError("broken")

    with pytest.raises(lwexp.LwexpError, match=r"^callbacks.Fails: step_end failed: ValueError: broken$"):
        lwexp.run_job(*SMALL, callbacks=[Fails(), Fails()])
    broken = Steps()
    broken.numbers = None  # type: ignore[assignment]
    with pytest.raises(lwexp.LwexpError, match=r"^callbacks.Steps-2: "):
        lwexp.run_job(*SMALL, callbacks=[Steps(), broken])
