"""A training killed at any step and resumed ends as if it had never been interrupted."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwexp import ConfigError, Event
from lwexp.training.trainer import Trainer
from tests.helpers.tiny_training import BATCHES, Killed, Recorder, close, die_before, flat, lasting, load, make_trainer

STEPS = 13


def final(trainer: Trainer) -> Any:
    """All that must not depend on where a training was interrupted."""
    state = lasting(trainer)
    tracker = trainer.tracker
    assert isinstance(tracker, Recorder)
    weights = {name: (trainer.folder / f"{name}.safetensors").read_bytes() for name in ("model", "best")}
    return flat(state), weights, dict(tracker.values)


def undisturbed(folder: Path, **setting: Any) -> Any:
    trainer = make_trainer(folder, every_steps=None, **setting)
    trainer.fit()
    close(trainer)
    return final(trainer)


def killed_and_resumed(folder: Path, kills: list[int], **setting: Any) -> Any:
    """A training that is ended before each of `kills`, and each time built anew from what is on the disk."""
    tracker = Recorder()
    for step in [*kills, None]:
        trainer = make_trainer(folder, tracker=tracker, **setting)
        assert trainer.checkpointer.files is not None
        if trainer.checkpointer.files.paths():
            load(trainer)
            random.seed(99)  # whatever happens between loading and going on
            np.random.seed(99)
            torch.manual_seed(99)
        if step is not None:
            die_before(trainer, step)
        with suppress(Killed):
            trainer.fit()
        close(trainer)
    return final(trainer)


def resumed(folder: Path, tracker: Any, **setting: Any) -> Any:
    trainer = load(make_trainer(folder, tracker=tracker, **setting))
    trainer.fit()
    return final(trainer)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate": 2, "steps": 8},
    "clipping": {"clip_grad_norm": 0.1},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "sgd": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9, "nesterov": True}},
    "adamw": {"optimizer": "adamw", "plan_options": {"no_weight_decay": True}},
    "group_options": {
        "optimizer": "adamw",
        "plan_options": {"group_options": {"head": {"betas": [0.5, 0.9]}, "*.weight": {"weight_decay": 0.1}}},
    },
    "amsgrad": {"optimizer_options": {"amsgrad": True, "fused": False}},
    "muon": {"optimizer": "muon"},
    "muon, fp16": {"optimizer": "muon", "precision": "fp16"},
    "lamb": {"optimizer": "lamb"},
    "unfreezing": {"unfreeze": 2},
    "plateau": {"policy": "plateau", "policy_options": {"patience": 0, "factor": 0.3, "warmup_steps": 2}},
    "torch policy": {"policy": "torch", "policy_options": {"name": "CyclicLR", "options": {"step_size_up": 3}}},
    "events": {"events": [Event(4, 0, 0.3), Event(9, "stem.bias", 0.0)]},
    "frozen": {"plan_options": {"freeze": ["blocks.0"]}, "freeze_stats": True},
    "rate 0": {"plan_options": {"freeze": ["stem"], "freeze_mode": "lr_zero"}},
    "skip": {"nonfinite": "skip"},
}


def test_killed_at_any_step_and_resumed_everything_is_as_undisturbed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "whole", steps=STEPS)
    trainer.fit()
    whole = final(trainer)
    for step in range(1, STEPS + 1):
        folder = tmp_path / str(step)
        (folder / "checkpoints").mkdir(parents=True)
        for path in (tmp_path / "whole" / "checkpoints").glob(f"step_{step:08d}.*"):
            shutil.copy(path, folder / "checkpoints")
        assert resumed(folder, trainer.tracker, every_steps=None, steps=STEPS) == whole, step


@pytest.mark.parametrize("case", CASES)
def test_resume_is_exact_with(tmp_path: Path, case: str) -> None:
    setting = CASES[case]
    whole = undisturbed(tmp_path / "whole", **setting)
    assert killed_and_resumed(tmp_path / "often", [0, 3, 4, 7], every_steps=2, **setting) == whole


@pytest.mark.parametrize("every", [2, 5])
def test_resume_is_exact_with_worker_processes(tmp_path: Path, every: int) -> None:
    whole = undisturbed(tmp_path / "whole", workers=0)
    assert killed_and_resumed(tmp_path / "often", [6], workers=1, every_steps=every) == whole


@given(
    kills=st.lists(st.integers(0, 12), max_size=3),
    every=st.integers(1, 6),
    accumulate=st.integers(1, 3),
    unfreeze=st.none() | st.integers(1, 4),
    policy=st.sampled_from(["cosine", "plateau"]),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resume_is_exact_wherever_it_was_killed(
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[int],
    every: int,
    accumulate: int,
    unfreeze: int | None,
    policy: str,
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    steps = 3 * -(-BATCHES // accumulate) - 1
    setting: dict[str, Any] = {"steps": steps, "accumulate": accumulate, "unfreeze": unfreeze, "policy": policy}
    whole = undisturbed(folder / "whole", **setting)
    assert killed_and_resumed(folder / "killed", kills, every_steps=every, keep=1, **setting) == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what optimizers warn of is not the point here
def test_every_optimizer_goes_on_exactly(tmp_path: Path) -> None:
    """All of torch's and timm's that train this model at all."""
    import timm.optim

    from lwexp.core.optim.registry import UNSUPPORTED, torch_optimizers

    names = sorted({*torch_optimizers(), *timm.optim.list_optimizers()} - {*UNSUPPORTED, "lbfgs", "sparseadam"})
    tried = 0
    for name in names:
        setting: dict[str, Any] = {"optimizer": name, "steps": 4, "epochs": 1}
        try:
            whole = undisturbed(tmp_path / name / "whole", **setting)
        except (ConfigError, RuntimeError, AssertionError):  # those of bitsandbytes and apex need a GPU
            continue
        tried += 1
        assert killed_and_resumed(tmp_path / name / "resumed", [2], **setting) == whole, name
    assert tried > 50


def test_rates_set_while_training_go_on(tmp_path: Path) -> None:
    def fit(folder: Path, kill: int | None) -> Trainer:
        trainer = make_trainer(folder)
        assert trainer.checkpointer.files is not None
        if trainer.checkpointer.files.paths():
            load(trainer)
        advance = trainer.learner.scheduler.advance

        def hand() -> None:
            advance()
            if trainer.learner.scheduler.last_epoch == 4:
                trainer.learner.scheduler.set_lr("head.bias", 0.7)

        trainer.learner.scheduler.advance = hand  # type: ignore[method-assign]
        if kill is not None:
            die_before(trainer, kill)
        with suppress(Killed):
            trainer.fit()
        return trainer

    whole = final(fit(tmp_path / "whole", None))
    fit(tmp_path / "killed", 6)
    second = fit(tmp_path / "killed", None)
    assert second.learner.scheduler.group_lr("head.bias") == 0.7
    assert flat(second.checkpointer.state()["model"]) == whole[0]["model"]


def test_evaluation_that_was_pending_is_made_at_resume(tmp_path: Path) -> None:
    whole = undisturbed(tmp_path / "whole")
    for at in (1, 2, 3):  # of the three evaluations
        folder, tracker = tmp_path / str(at), Recorder()
        trainer = make_trainer(folder, tracker=tracker)
        evaluate, count = trainer.evaluate, iter(range(1, 4))

        def mortal(*arguments: Any, at: int = at, own: Any = evaluate, count: Any = count, **options: Any) -> Any:
            if next(count) == at:
                raise Killed
            return own(*arguments, **options)

        trainer.evaluate = mortal  # type: ignore[method-assign]
        with pytest.raises(Killed):
            trainer.fit()
        assert resumed(folder, tracker) == whole


def test_best_weights_are_those_of_the_checkpoint_after_a_resume(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, keep=100)
    best = tmp_path / "best.safetensors"
    die_before(trainer, BATCHES + 2)
    with pytest.raises(Killed):
        trainer.fit()
    first = best.read_bytes()
    best.unlink()  # the file of a later step takes its place, as safetensors are written: never into the old file
    best.write_bytes(b"of a step that will not have been")
    second = load(make_trainer(tmp_path))
    assert second.progress.best
    second.checkpointer.start(second.resumed)
    assert best.read_bytes() == first


def test_best_counts_anew_where_its_weights_are_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path)
    die_before(trainer, BATCHES + 2)
    with pytest.raises(Killed):
        trainer.fit()
    for path in [tmp_path / "best.safetensors", *(tmp_path / "checkpoints").glob("*.best.safetensors")]:
        path.unlink()
    second = load(make_trainer(tmp_path))
    second.checkpointer.start(second.resumed)
    assert second.progress.best == {}
    assert "the best weights up to step 7 are missing" in caplog.text


def test_training_that_was_done_is_not_trained_further(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit()
    before = final(trainer)
    assert resumed(tmp_path, Recorder())[1] == before[1]
