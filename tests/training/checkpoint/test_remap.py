"""A checkpoint resumed under a changed plan, optimizer or model: refused, or mapped by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lwexp import ConfigError
from lwexp.training.trainer import Trainer
from tests.helpers.tiny_training import Killed, TinyNorms, die_before, flat, lasting, load, make_trainer, newest


def checkpoint_of(folder: Path, step: int = 7, **setting: Any) -> dict[str, Any]:
    trainer = make_trainer(folder, **setting)
    die_before(trainer, step)
    with pytest.raises(Killed):
        trainer.fit()
    return newest(trainer)


def moments(trainer: Trainer) -> dict[str, torch.Tensor]:
    names = {id(p): name for name, p in trainer.learner.model.named_parameters()}
    return {
        names[id(p)]: state["exp_avg"] for p, state in trainer.learner.optimizer.state.items() if "exp_avg" in state
    }


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"lr_overrides": {"head.bias": 0.5}}, "00_head.bias 0.05 -> 0.5"),
        ({"freeze": ["stem"]}, "stem.bias, stem.weight frozen"),
        ({"grouping": "top_module"}, "00_head is new at 0.05, 01_blocks is new at "),
        ({"mult": 0.5}, "… and 3 more"),
        ({"no_weight_decay": True}, "no_weight_decay False -> True"),
        ({"no_weight_decay": ["head", "stem"]}, "no_weight_decay False -> ['head', 'stem']"),
        ({"group_options": {"head": {"betas": [0.5, 0.9]}}}, "betas of head.bias, head.weight default -> [0.5, 0.9]"),
    ],
)
def test_changed_plan_is_refused_with_the_difference(tmp_path: Path, changed: dict[str, Any], shown: str) -> None:
    state = checkpoint_of(tmp_path)
    trainer = make_trainer(tmp_path, plan_options=changed)
    before = flat(trainer.checkpointer.state())
    with pytest.raises(ConfigError) as caught:
        load(trainer, state)
    message = str(caught.value)
    assert message.startswith("checkpoint.remap=False: the plan is not that of the checkpoint of step 7: ")
    assert shown in message
    assert "\n" not in message
    assert len(message) < 500
    assert flat(trainer.checkpointer.state()) == before


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
        load(make_trainer(tmp_path, plan_options={"grouping": other}), state)


def test_remap_takes_rates_from_the_new_plan_and_moments_by_name(tmp_path: Path) -> None:
    state = checkpoint_of(tmp_path / "old", plan_options={"freeze": ["stem"]})
    old = make_trainer(tmp_path / "old", plan_options={"freeze": ["stem"]})
    load(old, state)
    new = make_trainer(
        tmp_path / "old",
        plan_options={"grouping": "top_module", "freeze": ["blocks.1"], "lr": 0.3},
        optimizer_options={"betas": (0.5, 0.6)},
    )
    load(new, state, remap=True)
    followed = moments(new)
    assert {name for name in followed if name.startswith(("stem", "blocks.1"))} == set()
    for name, moment in moments(old).items():
        if not name.startswith("blocks.1"):
            assert torch.equal(followed[name], moment), name
    assert new.progress.step == new.learner.scheduler.last_epoch == 7
    assert new.learner.scheduler.rates() == new.learner.plan.lr_table("cosine", steps=13)[7].tolist()
    assert all(group["betas"] == (0.5, 0.6) for group in new.learner.optimizer.param_groups)
    frozen = {name for name, p in new.learner.model.named_parameters() if not p.requires_grad}
    assert frozen == {"blocks.1.linear.weight", "blocks.1.norm.weight", "blocks.1.norm.bias"}
    before = {name: p.detach().clone() for name, p in new.learner.model.named_parameters()}
    assert flat(before) == flat(dict(old.learner.model.named_parameters()))
    new.fit()
    moved = {name for name, p in new.learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - frozen


def test_remap_takes_the_options_of_the_new_plan_and_moments_by_name(tmp_path: Path) -> None:
    state = checkpoint_of(tmp_path, plan_options={"group_options": {"head": {"weight_decay": 0.5}}})
    with pytest.raises(ConfigError, match=r"weight_decay of head.bias 0.5 -> 0.25, weight_decay of head.weight 0.5 ->"):
        load(make_trainer(tmp_path, plan_options={"group_options": {"head.bias": {"weight_decay": 0.25}}}), state)
    old = make_trainer(tmp_path, plan_options={"group_options": {"head": {"weight_decay": 0.5}}})
    load(old, state)
    new = make_trainer(tmp_path, plan_options={"group_options": {"*.bias": {"weight_decay": 0.25}}})
    load(new, state, remap=True)
    assert flat(moments(new)) == flat(moments(old))
    names = {id(p): name for name, p in new.learner.model.named_parameters()}
    decays = {names[id(p)]: g["weight_decay"] for g in new.learner.optimizer.param_groups for p in g["params"]}
    assert decays == {name: 0.25 if name.endswith(".bias") else 0.0 for name in decays}
    new.fit()


def test_remap_of_an_equal_plan_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for remap in (False, True):
        state = checkpoint_of(tmp_path)
        trainer = make_trainer(tmp_path, checkpoints=False)
        load(trainer, state, remap=remap)
        trainer.fit()
        ends.append(flat(lasting(trainer)))
    assert ends[0] == ends[1]


def test_remap_keeps_what_a_plateau_has_seen_and_takes_its_new_options(tmp_path: Path) -> None:
    plateau: dict[str, Any] = {"policy": "plateau", "policy_options": {"patience": 0, "factor": 0.5}}
    state = checkpoint_of(tmp_path, step=11, **plateau)
    (seen,) = state["scheduler"]["policies"]
    new = make_trainer(
        tmp_path, policy="plateau", policy_options={"patience": 5, "factor": 0.1}, plan_options={"lr": 0.2}
    )
    load(new, state, remap=True)
    shape = new.learner.scheduler.schedule.policy.shape
    now = shape.state_dict()  # type: ignore[attr-defined]
    assert now["scheduler"]["best"] == seen["scheduler"]["best"]
    assert now["scheduler"]["patience"] == 5
    assert now["factor"] == pytest.approx(seen["factor"])
    assert new.learner.scheduler.rates()[0] == pytest.approx(0.2 * seen["factor"])
    assert new.progress.seen_rates is not None
    assert len(new.progress.seen_rates) == 11


def test_remap_to_another_optimizer_starts_its_state_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = checkpoint_of(tmp_path, optimizer="sgd")
    with pytest.raises(ConfigError, match=r"^optimizer=torch.optim.adam.Adam: the checkpoint was made with .*SGD"):
        load(make_trainer(tmp_path), state)
    trainer = make_trainer(tmp_path)
    load(trainer, state, remap=True)
    assert "its state starts fresh" in caplog.text
    trainer.fit()


def test_remap_with_another_kind_of_moments_starts_them_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = checkpoint_of(tmp_path)
    trainer = make_trainer(tmp_path, optimizer_options={"amsgrad": True})
    load(trainer, state, remap=True)
    assert "optimizer.amsgrad has changed" in caplog.text
    trainer.fit()


def test_another_model_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    state = checkpoint_of(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^model=TinyNorms: .*stem.weight is \[4, 4\] in the checkpoint, \[6, 4\] in"
    ):
        load(make_trainer(tmp_path, model=TinyNorms(width=6)), state, remap=True)
    renamed = TinyNorms()
    renamed.heads = renamed.head
    del renamed.head
    renamed.forward = lambda x: renamed.heads(renamed.blocks(renamed.stem(x)))  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"heads.weight is not in the checkpoint .*did you mean head.weight"):
        load(make_trainer(tmp_path, model=renamed), state)
