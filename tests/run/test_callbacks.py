"""`callbacks` in the config: the user's own classes by name, checked before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import RunHere

SMALL = ["model=lstm", "model.hidden_size=8", "epochs=1", "max_steps=3", "tracking=none", "progress=false"]
CODE = '''
from pathlib import Path
import lwexp

class Notes(lwexp.Callback):
    """Writes the loss of every n-th step to a file."""

    def __init__(self, path, every=1):
        self.path, self.every = Path(path), every
        if every < 1:
            raise ValueError("every must be 1 or more")

    def setup(self, learner, tracker):
        self.tracker = tracker
        self.path.write_text(f"{len(learner.plan.groups)} groups\\n")

    def step_end(self, result):
        if result.number % self.every == 0:
            with self.path.open("a") as file:
                file.write(f"step {result.number}\\n")

    def evaluation_end(self, progress, metrics):
        if "fails" in self.path.name:
            raise RuntimeError("disk is full")

class NoCallback:
    pass
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_callbacks.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_callback_of_the_users_own_is_one_class_in_one_file(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here(
        "run", *SMALL, "callbacks={notes: {_target_: my_callbacks.Notes, path: notes.txt, every: 2}}",
        "callbacks.second._target_=my_callbacks.Notes", "callbacks.second.path=second.txt",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "notes.txt").read_text() == "2 groups\nstep 0\nstep 2\n"
    assert (tmp_path / "second.txt").read_text() == "2 groups\nstep 0\nstep 1\nstep 2\n"


@pytest.mark.parametrize(
    ("callback", "line"),
    [
        ("{path: x}", "callbacks.notes._target_=???: must be given"),
        ("{_target_: my_callbacks.Note}", "callbacks.notes._target_=my_callbacks.Note: my_callbacks has no Note; did"),
        ("{_target_: my_callbacks.Notes, path: x, evry: 2}", "callbacks.notes.evry=2: my_callbacks.Notes has no such"),
        ("{_target_: my_callbacks.Notes}", "callbacks.notes=my_callbacks.Notes: cannot be made: TypeError: "),
        (
            "{_target_: my_callbacks.Notes, path: x, every: 0}",
            "callbacks.notes=my_callbacks.Notes: cannot be made: V",
        ),
        (
            "{_target_: my_callbacks.NoCallback}",
            "callbacks.notes._target_=my_callbacks.NoCallback: must be a class",
        ),
        ("my_callbacks.Notes", "callbacks.notes=my_callbacks.Notes: "),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    lwexp_here: RunHere, tmp_path: Path, callback: str, line: str
) -> None:
    outcome = lwexp_here("run", *SMALL, f"callbacks={{notes: {callback}}}")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {line}")
    assert len(outcome.err.splitlines()) == 1
    assert not list(tmp_path.glob("outputs/runs/*"))


def test_an_error_in_a_callback_fails_the_run_in_one_line(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *SMALL, "callbacks={notes: {_target_: my_callbacks.Notes, path: fails.txt}}")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert line == "error: callbacks.notes: evaluation_end failed: RuntimeError: disk is full"


def test_a_resumed_run_executes_a_callback_only_if_it_is_allowed(lwexp_here: RunHere) -> None:
    callback = "callbacks={notes: {_target_: my_callbacks.Notes, path: notes.txt}}"
    assert lwexp_here("run", *SMALL, callback, "hydra.run.dir=run").code == 0
    outcome = lwexp_here("run", "resume=run")
    assert outcome.code == 2
    assert "the run's config would execute my_callbacks.Notes" in outcome.err
    assert lwexp_here("run", "resume=run", "checkpoint.allow_targets=[my_callbacks.Notes]").code == 0
