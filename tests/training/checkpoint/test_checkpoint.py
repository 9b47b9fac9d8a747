from __future__ import annotations

import logging
import os
import random
import resource
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwexp import ConfigError, Event
from lwexp.errors import RunError
from lwexp.training.checkpoint.files import Checkpoints
from lwexp.training.trainer import Trainer
from tests.helpers.tiny_training import BATCHES, Killed, Recorder, TinyNorms, close, die_before, flat, make_trainer

Make = Callable[..., Trainer]
STEPS = 13


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests, and waiting for the disk takes most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def final(trainer: Trainer) -> Any:
    """All that must not depend on where a training was interrupted."""
    state = trainer.state()
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
        state = trainer.checkpoints.newest() if trainer.checkpoints else None
        if state is not None:
            trainer.load_state(state)
            random.seed(99)  # whatever happens between loading and going on
            np.random.seed(99)
            torch.manual_seed(99)
        if step is not None:
            die_before(trainer, step)
        with suppress(Killed):
            trainer.fit()
        close(trainer)
    return final(trainer)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate": 2, "steps": 8},
    "clipping": {"clip_grad_norm": 0.1},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "sgd": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9, "nesterov": True}},
    "adamw": {"optimizer": "adamw", "plan_options": {"no_weight_decay": True}},
    "amsgrad": {"optimizer_options": {"amsgrad": True, "fused": False}},
    "lamb": {"optimizer": "lamb"},
    "unfreezing": {"unfreeze": 2},
    "plateau": {"policy": "plateau", "policy_options": {"patience": 0, "factor": 0.3, "warmup_steps": 2}},
    "torch policy": {"policy": "torch", "policy_options": {"name": "CyclicLR", "options": {"step_size_up": 3}}},
    "events": {"events": [Event(4, 0, 0.3), Event(9, "stem.bias", 0.0)]},
    "frozen": {"plan_options": {"freeze": ["blocks.0"]}, "freeze_stats": True},
    "rate 0": {"plan_options": {"freeze": ["stem"], "freeze_mode": "lr_zero"}},
    "skip": {"nonfinite": "skip"},
}


# ------------------------------------------------------------------------------------------------------- exact resume


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

    from lwexp.core.optim.registry import _UNFIT, torch_optimizers

    names = sorted({*torch_optimizers(), *timm.optim.list_optimizers()} - {*_UNFIT, "lbfgs", "sparseadam"})
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
        state = trainer.checkpoints.newest() if trainer.checkpoints else None
        if state:
            trainer.load_state(state)
        advance = trainer.scheduler.advance

        def hand() -> None:
            advance()
            if trainer.scheduler.last_epoch == 4:
                trainer.scheduler.set_lr("head.bias", 0.7)

        trainer.scheduler.advance = hand  # type: ignore[method-assign]
        if kill is not None:
            die_before(trainer, kill)
        with suppress(Killed):
            trainer.fit()
        return trainer

    whole = final(fit(tmp_path / "whole", None))
    fit(tmp_path / "killed", 6)
    second = fit(tmp_path / "killed", None)
    assert second.scheduler.group_lr("head.bias") == 0.7
    assert flat(second.state()["model"]) == whole[0]["model"]


def test_evaluation_that_was_pending_is_made_at_resume(tmp_path: Path) -> None:
    whole = undisturbed(tmp_path / "whole")
    for at in (1, 2, 3):  # of the three evaluations
        folder, tracker = tmp_path / str(at), Recorder()
        trainer = make_trainer(folder, tracker=tracker)
        evaluate, count = trainer.evaluate, iter(range(1, 4))

        def mortal(*arguments: Any, at: int = at, evaluate: Any = evaluate, count: Any = count) -> Any:
            if next(count) == at:
                raise Killed
            return evaluate(*arguments)

        trainer.evaluate = mortal  # type: ignore[method-assign]
        with pytest.raises(Killed):
            trainer.fit()
        assert resumed(folder, tracker) == whole


def resumed(folder: Path, tracker: Any, **setting: Any) -> Any:
    trainer = make_trainer(folder, tracker=tracker, **setting)
    assert trainer.checkpoints is not None
    state = trainer.checkpoints.newest()
    assert state is not None
    trainer.load_state(state)
    trainer.fit()
    return final(trainer)


def test_best_weights_are_those_of_the_checkpoint_after_a_resume(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, keep=100)
    best = tmp_path / "best.safetensors"
    die_before(trainer, BATCHES + 2)
    with pytest.raises(Killed):
        trainer.fit()
    first = best.read_bytes()
    best.unlink()  # the file of a later step takes its place, as safetensors are written: never into the old file
    best.write_bytes(b"of a step that will not have been")
    second = make_trainer(tmp_path)
    assert second.checkpoints is not None
    state = second.checkpoints.newest()
    assert state is not None
    assert state["best"]
    second.load_state(state)
    assert best.read_bytes() == first


def test_best_counts_anew_where_its_weights_are_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path)
    die_before(trainer, BATCHES + 2)
    with pytest.raises(Killed):
        trainer.fit()
    for path in [tmp_path / "best.safetensors", *(tmp_path / "checkpoints").glob("*.best.safetensors")]:
        path.unlink()
    second = make_trainer(tmp_path)
    assert second.checkpoints is not None
    second.load_state(second.checkpoints.newest() or {})
    assert second.best == {}
    assert "the best weights up to step 7 are gone" in caplog.text


def test_training_that_was_done_is_not_trained_further(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit()
    before = final(trainer)
    assert resumed(tmp_path, Recorder())[1] == before[1]


# ------------------------------------------------------------------------------------------------------ changed plans


def checkpoint_of(folder: Path, step: int = 7, **setting: Any) -> dict[str, Any]:
    trainer = make_trainer(folder, **setting)
    die_before(trainer, step)
    with pytest.raises(Killed):
        trainer.fit()
    assert trainer.checkpoints is not None
    state = trainer.checkpoints.newest()
    assert state is not None
    return state


def moments(trainer: Trainer) -> dict[str, torch.Tensor]:
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    return {names[id(p)]: state["exp_avg"] for p, state in trainer.optimizer.state.items() if "exp_avg" in state}


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"lr_overrides": {"head.bias": 0.5}}, "00_head.bias 0.05 -> 0.5"),
        ({"freeze": ["stem"]}, "stem.bias, stem.weight frozen"),
        ({"grouping": "top_module"}, "00_head is new, 01_blocks is new, 02_stem is new, 00_head.bias is gone"),
        ({"mult": 0.5}, "… and 3 more"),
        ({"no_weight_decay": True}, "no_weight_decay False -> True"),
    ],
)
def test_changed_plan_is_refused_with_the_difference(tmp_path: Path, changed: dict[str, Any], shown: str) -> None:
    state = checkpoint_of(tmp_path)
    trainer = make_trainer(tmp_path, plan_options=changed)
    before = flat(trainer.state())
    with pytest.raises(ConfigError) as caught:
        trainer.load_state(state)
    message = str(caught.value)
    assert message.startswith("checkpoint.remap=False: the plan is not that of the checkpoint of step 7: ")
    assert shown in message
    assert "\n" not in message
    assert len(message) < 500
    assert flat(trainer.state()) == before


def test_parameters_that_moved_are_named(tmp_path: Path) -> None:
    def halves(model: torch.nn.Module) -> Any:
        return [("late", ["head.bias", "head.weight", *norms]), ("early", rest)]

    def other(model: torch.nn.Module) -> Any:
        return [("late", ["head.bias", "head.weight"]), ("early", [*norms, *rest])]

    names = [name for name, _ in TinyNorms().named_parameters()][::-1]
    norms = ["blocks.1.norm.bias"]
    rest = [name for name in names if not name.startswith("head") and name not in norms]
    state = checkpoint_of(tmp_path, plan_options={"grouping": halves})
    with pytest.raises(ConfigError, match=r"blocks\.1\.norm\.bias moved from 00_late to 01_early"):
        make_trainer(tmp_path, plan_options={"grouping": other}).load_state(state)


def test_remap_takes_rates_from_the_new_plan_and_moments_by_name(tmp_path: Path) -> None:
    state = checkpoint_of(tmp_path / "old", plan_options={"freeze": ["stem"]})
    old = make_trainer(tmp_path / "old", plan_options={"freeze": ["stem"]})
    old.load_state(state)
    new = make_trainer(
        tmp_path / "old",
        plan_options={"grouping": "top_module", "freeze": ["blocks.1"], "lr": 0.3},
        optimizer_options={"betas": (0.5, 0.6)},
    )
    new.load_state(state, remap=True)
    followed = moments(new)
    assert {name for name in followed if name.startswith(("stem", "blocks.1"))} == set()
    for name, moment in moments(old).items():
        if not name.startswith("blocks.1"):
            assert torch.equal(followed[name], moment), name
    assert new.step == new.scheduler.last_epoch == 7
    assert new.scheduler.rates() == new.plan.lr_table("cosine", steps=13)[7].tolist()
    assert all(group["betas"] == (0.5, 0.6) for group in new.optimizer.param_groups)
    frozen = {name for name, p in new.model.named_parameters() if not p.requires_grad}
    assert frozen == {"blocks.1.linear.weight", "blocks.1.norm.weight", "blocks.1.norm.bias"}
    before = {name: p.detach().clone() for name, p in new.model.named_parameters()}
    assert flat(before) == flat(dict(old.model.named_parameters()))
    new.fit()
    moved = {name for name, p in new.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - frozen


def test_remap_of_an_equal_plan_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for remap in (False, True):
        state = checkpoint_of(tmp_path)
        trainer = make_trainer(tmp_path)
        trainer.load_state(state, remap=remap)
        trainer.checkpoints = None
        trainer.fit()
        ends.append(flat(trainer.state()))
    assert ends[0] == ends[1]


def test_remap_keeps_what_a_plateau_has_seen_and_takes_its_new_options(tmp_path: Path) -> None:
    plateau: dict[str, Any] = {"policy": "plateau", "policy_options": {"patience": 0, "factor": 0.5}}
    state = checkpoint_of(tmp_path, step=11, **plateau)
    seen = state["scheduler"]["policy"]
    new = make_trainer(
        tmp_path, policy="plateau", policy_options={"patience": 5, "factor": 0.1}, plan_options={"lr": 0.2}
    )
    new.load_state(state, remap=True)
    shape = new.scheduler.schedule.policy.shape
    now = shape.state_dict()  # type: ignore[attr-defined]
    assert now["scheduler"]["best"] == seen["scheduler"]["best"]
    assert now["scheduler"]["patience"] == 5
    assert now["factor"] == pytest.approx(seen["factor"])
    assert new.scheduler.rates()[0] == pytest.approx(0.2 * seen["factor"])
    assert new.seen_rates is not None
    assert len(new.seen_rates) == 11


def test_remap_to_another_optimizer_starts_its_state_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = checkpoint_of(tmp_path, optimizer="sgd")
    with pytest.raises(ConfigError, match=r"^optimizer=torch.optim.adam.Adam: the checkpoint was made with .*SGD"):
        make_trainer(tmp_path).load_state(state)
    trainer = make_trainer(tmp_path)
    trainer.load_state(state, remap=True)
    assert "its state starts fresh" in caplog.text
    trainer.fit()


def test_remap_with_another_kind_of_moments_starts_them_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = checkpoint_of(tmp_path)
    trainer = make_trainer(tmp_path, optimizer_options={"amsgrad": True})
    trainer.load_state(state, remap=True)
    assert "optimizer.amsgrad has changed" in caplog.text
    trainer.fit()


def test_another_model_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    state = checkpoint_of(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^model=TinyNorms: .*stem.weight is \[4, 4\] in the checkpoint, \[6, 4\] in"
    ):
        make_trainer(tmp_path, model=TinyNorms(width=6)).load_state(state, remap=True)
    renamed = TinyNorms()
    renamed.heads = renamed.head
    del renamed.head
    renamed.forward = lambda x: renamed.heads(renamed.blocks(renamed.stem(x)))  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"heads.weight is not in the checkpoint .*did you mean head.weight"):
        make_trainer(tmp_path, model=renamed).load_state(state)


# --------------------------------------------------------------------------------------------------------------- files

STATE = {"step": 3, "weights": torch.arange(1000.0), "names": ["ä", "b"], "config": {"lr": 0.1}}


def folder_of(path: Path, keep: int = 2, **due: Any) -> Checkpoints:
    return Checkpoints(path / "checkpoints", **{"every_steps": None, "every_minutes": None, **due}, keep=keep)


def test_one_is_due_after_so_many_steps_or_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    both = folder_of(tmp_path, every_steps=10, every_minutes=2.0)
    assert [step for step in range(1, 12) if both.due(step)] == [10, 11]
    now += 119
    assert not both.due(3)
    now += 1
    assert both.due(3)
    both.save(STATE, 3)
    assert [step for step in range(4, 15) if both.due(step)] == [13, 14]
    never = folder_of(tmp_path)
    now += 10**6
    assert not never.due(10**6)


def test_newest_few_are_kept_and_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    checkpoints = folder_of(tmp_path)
    assert checkpoints.newest() is None
    best = tmp_path / "best.safetensors"
    best.write_bytes(b"weights")
    for step in (2, 10, 9, 11):
        checkpoints.save({**STATE, "step": step}, step, best)
        (checkpoints.folder / ".writing-1-abc").write_bytes(b"half")
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [
        ".writing-1-abc", "step_00000009.best.safetensors", "step_00000009.ckpt",
        "step_00000011.best.safetensors", "step_00000011.ckpt",
    ]  # fmt: skip
    newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 11
    assert torch.equal(newest["weights"], STATE["weights"])  # type: ignore[arg-type]
    assert best.stat().st_nlink == 3, "the best weights take no space of their own"


def damaged_ways() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "empty": lambda data: b"",
        "truncated": lambda data: data[: len(data) // 2],
        "without its end": lambda data: data[:-1],
        "not a zip": lambda data: b"x" * len(data),
        "bit of a weight": lambda data: flipped(data, len(data) // 2),
    }


def flipped(data: bytes, position: int, bit: int = 3) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("way", damaged_ways())
def test_damaged_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    checkpoints = folder_of(tmp_path)
    checkpoints.save({**STATE, "step": 1}, 1)
    path = checkpoints.save({**STATE, "step": 2}, 2)
    path.write_bytes(damaged_ways()[way](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 1
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "\n" not in record.getMessage()
    checkpoints.save({**STATE, "step": 3}, 2)  # the training comes there again
    assert len(checkpoints.paths()) == 2


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = folder_of(tmp_path)
    path = checkpoints.save(STATE, 1)
    data, whole, found = path.read_bytes(), flat(checkpoints.newest()), 0
    draw = random.Random(5)
    for _ in range(300):
        path.write_bytes(flipped(data, draw.randrange(len(data)), draw.randrange(8)))
        state = checkpoints.newest()
        found += state is None
        assert state is None or flat(state) == whole
    assert found > 200, "most of the file are weights"


def test_another_format_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = folder_of(tmp_path)
    path = checkpoints.save(STATE, 1)
    torch.save({**STATE, "format": 99}, path)
    assert checkpoints.newest() is None
    assert "its format is 99" in caplog.text


def test_a_file_with_code_in_it_is_not_executed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    checkpoints = folder_of(tmp_path)
    path = checkpoints.save(STATE, 1)
    torch.save({"format": 1, "evil": Evil()}, path)
    assert checkpoints.newest() is None
    assert not (tmp_path / "executed").exists()
    assert path.name in caplog.text


def test_a_state_that_could_not_be_loaded_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    checkpoints = folder_of(tmp_path)
    with pytest.raises(RunError, match=r"could not be loaded again: .*Path"):
        checkpoints.save({**STATE, "what": tmp_path}, 1)
    assert list(checkpoints.folder.iterdir()) == []


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A file that grows beyond `size` bytes is refused by the system."""
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100, 100_000, 3_000_000])
def test_what_the_disk_does_not_take_is_one_line_and_the_earlier_ones_stay(tmp_path: Path, size: int) -> None:
    checkpoints = folder_of(tmp_path)
    checkpoints.save(STATE, 1)
    big = {"step": 2, "weights": [torch.zeros(100_000) for _ in range(10)]}
    with pytest.raises(RunError) as caught, files_up_to(size):
        checkpoints.save(big, 2)
    assert str(caught.value).startswith(f"cannot write the checkpoint {checkpoints.folder / 'step_00000002.ckpt'}: ")
    assert str(caught.value).endswith("File too large; step_00000001.ckpt is intact")
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_00000001.ckpt"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 3


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(RunError, match=r"cannot write the checkpoint .*: (File exists|Not a directory)"):
        folder_of(tmp_path).save(STATE, 1)


def test_a_save_that_is_killed_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = folder_of(tmp_path)
    checkpoints.save(STATE, 1)

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save({**STATE, "step": 9}, 2)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_00000001.ckpt"]


def test_the_file_is_a_zip_of_checksummed_records_that_torch_reads(tmp_path: Path) -> None:
    path = folder_of(tmp_path).save(STATE, 12)
    assert path.name == "step_00000012.ckpt"
    assert zipfile.ZipFile(path).testzip() is None
    assert torch.load(path, weights_only=True)["names"] == ["ä", "b"]
