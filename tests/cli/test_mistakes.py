"""Mistakes end in one line that names the key, with exit code 2, before anything is trained or tracked."""

from __future__ import annotations

import copy
import functools
import gc
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given
from hypothesis import settings as searched
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from lwexp.config.compose import settings
from lwexp.errors import ConfigError, UnknownOptionError
from lwexp.models.weights import save_weights
from tests.helpers.commands import ROOT, Outcome

RunHere = Callable[..., Outcome]
CONF = ROOT / "conf"
SMALL = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "max_steps=20", "epochs=5",
         "progress=false"]  # fmt: skip
PHOTOS = ["data=image_folder", "data.image_size=8", "data.workers=0", "batch_size=2"]
FAKE = ["data=torchvision", "data.dataset=FakeData", "data.workers=0", "batch_size=2"]

# options (after SMALL) -> the line after `error: `, from its start
MISTAKES: dict[str, tuple[list[str], str]] = {
    # names that do not exist
    "model_off_by_a_letter": (["model=resnet81"], r"model=resnet81: no such model; did you mean .*resnet18"),
    "model_lstm_off_by_a_letter": (["model=lstmm"], r"model=lstmm: no such model; did you mean lstm"),
    "torchvision_model": (
        ["model=torchvision", "model.name=resnet19", "~model.hidden_size"],
        r"model\.name=resnet19: .*resnet18",
    ),
    "option": (["mutl=0.9"], r"mutl=0\.9: unknown option; did you mean mult\?"),
    "option_of_a_section": (["data.imagesize=8"], r"data\.imagesize=8: unknown option; did you mean image_size\?"),
    "option_of_a_policy": (
        ["policy.warmup_step=1"],
        r"policy\.warmup_step=1: unknown option; did you mean warmup_steps",
    ),
    "option_of_another_policy": (
        ["policy=cosine", "policy.gamma=0.1"],
        r"policy\.gamma=0\.1: unknown option; choices: ",
    ),
    "option_of_a_decay": (["decay.min_scale=0.1"], r"decay\.min_scale=0\.1: unknown option; "),
    "option_of_a_grouping": (["grouping.source=timm"], r"grouping\.source=timm: unknown option; "),
    "option_of_the_model": (["model.hidden=8"], r"model\.hidden=8: unknown option; did you mean hidden_size\?"),
    "option_of_an_optimizer": (["optimizer.momentum=0.9"], r"optimizer\.momentum=0\.9: adam has no such option; "),
    "option_of_a_loss": (["loss.options.margin=1"], r"loss\.options\.margin=1: CrossEntropyLoss has no such option; "),
    "option_of_an_event": (
        ["lr_events=[{step: 1, group: 0, rate: 0.1}]"],
        r"lr_events\.0\.rate=0\.1: unknown option; .*lr",
    ),
    "grouping": (["grouping=top_modul"], r"grouping=top_modul: no such choice; did you mean top_module\?"),
    "decay": (["decay=quadratic"], r"decay=quadratic: no such choice; choices: .*arithmetic"),
    "policy": (["policy=cosin"], r"policy=cosin: no such choice; did you mean cosine\?"),
    "weights": (["weights=pretraind"], r"weights=pretraind: no such choice; did you mean pretrained\?"),
    "data": (["data=digit"], r"data=digit: no such choice; did you mean digits\?"),
    "tracking": (["tracking=wandb"], r"tracking=wandb: no such choice; choices: mlflow, none"),
    "optimizer": (["optimizer=addam"], r"optimizer=addam: no such optimizer; did you mean .*adam"),
    "loss": (
        ["loss.name=CrossEntropy"],
        r"loss\.name=CrossEntropy: no such loss in torch.nn; did you mean CrossEntropyLoss",
    ),
    "torch_scheduler": (["policy=torch", "policy.name=StepLr"], r"policy\.name=StepLr: no such class .*StepLR"),
    "metric": (["policy=plateau", "policy.metric=val/acc"], r"policy\.metric=val/acc: no such metric; .*val/accuracy"),
    "device": (["device=gpu"], r"device=gpu: cannot be used here; auto, cpu"),
    "precision": (["precision=fp8"], r"precision=fp8: should be 'fp32', 'bf16' or 'fp16'"),
    "workers": (["data.workers=two"], r"data\.workers=two: should be a valid integer, or 'auto'"),
    "cache": ([*PHOTOS, "data.path=photos", "data.cache=x"], r"data\.cache=x: should be a valid boolean, or 'auto'"),
    "freeze_mode": (["freeze_mode=zero"], r"freeze_mode=zero: should be 'requires_grad' or 'lr_zero'"),
    "new_key": (["+newkey=1"], r"newkey=1: unknown option; choices: "),
    "new_section": (["+new.key=1"], r"new=.*: unknown option; "),
    "flag": (["--multirn"], r"command line=--multirn: no such flag .*--multirun"),
    "malformed_override": (["mult=[0.9"], r"override=mult=\[0\.9: "),
    "no_equals_sign": (["mult"], r"override=mult: "),
    # values that cannot be
    "mult_a_word": (["mult=abc"], r"mult=abc: should be a valid number"),
    "mult_negative": (["mult=-1"], r"mult=-1(\.0)?: should be greater than 0"),
    "lr_nan": (["lr=nan"], r"lr=nan: should be "),
    "lr_inf": (["lr=inf"], r"lr=inf: should be a finite number"),
    "lr_zero": (["lr=0"], r"lr=0(\.0)?: should be greater than 0"),
    "lr_text": (["lr='0.1'"], r"lr=0\.1: should be a valid number"),
    "epochs_zero": (["epochs=0"], r"epochs=0: should be greater than or equal to 1"),
    "epochs_fraction": (["epochs=1.5"], r"epochs=1\.5: should be a valid integer"),
    "max_steps_zero": (["max_steps=0"], r"max_steps=0: should be greater than or equal to 1"),
    "seed_negative": (["seed=-1"], r"seed=-1: should be greater than or equal to 0"),
    "progress_a_number": (["progress=1"], r"progress=1: should be a valid boolean"),
    "both_unfreezings": (["unfreeze.every_epochs=1", "unfreeze.every_steps=5"], r"unfreeze=.*: give one of the two"),
    "override_negative": (["lr_overrides.head=-0.1"], r"lr_overrides\.head=-0\.1: "),
    "override_a_word": (
        ["lr_overrides.lstm.bias_hh_l0=fast"],
        r"lr_overrides\.lstm\.bias_hh_l0=fast: should be a valid number",
    ),
    "rates_nan": (["decay=explicit", "decay.rates={head: nan}"], r"decay\.rates\.head=nan: must be finite"),
    "power_zero": (["decay=polynomial", "decay.power=0"], r"decay\.power=0(\.0)?: must be above 0"),
    "min_scale_above_one": (["decay=cosine", "decay.min_scale=1.5"], r"decay\.min_scale=1\.5: must be from 0 to 1"),
    "floor_above_the_rate": (
        ["policy=linear", "policy.min_lr=1"],
        r"policy\.min_lr=1(\.0)?: the floor is above the base rate",
    ),
    "floor_unknown": (["policy=linear", "policy.floor=abs"], r"policy\.floor=abs: not among the choices; .*absolute"),
    "milestones_falling": (
        ["policy=multistep", "policy.milestones=[5,2]"],
        r"policy\.milestones=\[5, 2\]: needs rising steps",
    ),
    "smoothing_one": (["loss.label_smoothing=1.0"], r"loss\.label_smoothing=1\.0: should be less than 1"),
    "smoothing_of_another_loss": (
        ["loss.name=MSELoss", "loss.label_smoothing=0.1"],
        r"loss\.label_smoothing=0\.1: MSELoss has none",
    ),
    "class_weights_too_few": (["loss.class_weights=[1,2]"], r"loss\.class_weights=\[1.*\]: 2 weights for 10 classes"),
    "class_weights_a_word": (["loss.class_weights=even"], r"loss\.class_weights=even: should be 'balanced'"),
    "optimizer_refuses": (["optimizer.betas=[0.9,2]"], r"optimizer\.betas=\[0\.9, 2\]: adam refuses: .*beta"),
    "optimizer_needs_a_closure": (["optimizer=lbfgs"], r"optimizer=lbfgs: needs a closure"),
    "lstm_without_width": (["model.hidden_size=0"], r"model\.hidden_size=0: must be at least 1"),
    "meta_device": (["device=meta"], r"device=meta: holds no numbers to train"),
    # mandatory values
    "image_folder_without_path": (["data=image_folder"], r"data\.path=\?\?\?: must be given"),
    "torchvision_without_dataset": (["data=torchvision"], r"data\.dataset=\?\?\?: must be given"),
    "torch_policy_without_name": (["policy=torch"], r"policy\.name=\?\?\?: must be given"),
    "multistep_without_milestones": (["policy=multistep"], r"policy\.milestones=\?\?\?: must be given"),
    "custom_policy_without_target": (["policy=custom"], r"policy\._target_=\?\?\?: must be given"),
    "custom_decay_without_target": (["decay=custom"], r"decay\._target_=\?\?\?: must be given"),
    "custom_grouping_without_target": (["grouping=custom"], r"grouping\._target_=\?\?\?: must be given"),
    "custom_model_without_target": (["model=custom", "~model.hidden_size"], r"model\._target_=\?\?\?: must be given"),
    "timm_without_name": (["model=timm", "~model.hidden_size"], r"model\.name=\?\?\?: must be given"),
    "checkpoint_without_path": (["weights=checkpoint"], r"weights\.path=\?\?\?: must be given"),
    "by_name_without_patterns": (["grouping=by_name"], r"grouping\.patterns=\{\}: needs at least one group"),
    # what the model does not have
    "freeze_nothing": (["freeze=[lstn]"], r"freeze=lstn: the pattern matches no parameter; did you mean lstm"),
    "freeze_everything": (["freeze=['*']"], r"freeze=\*: every parameter is frozen"),
    "override_nothing": (
        ["lr_overrides.haed=0.1"],
        r"lr_overrides=haed: the pattern matches no parameter; did you mean head",
    ),
    "rate_of_nothing": (
        ["decay=explicit", "decay.rates={haed: 0.1}"],
        r"decay\.rates=haed: the pattern matches no parameter",
    ),
    "group_of_nothing": (
        ["grouping=by_name", "grouping.patterns={top: fc, rest: '*'}"],
        r"grouping\.patterns\.top=fc: the pattern matches no parameter",
    ),
    "group_forgotten": (
        ["grouping=by_name", "grouping.patterns={top: head}"],
        r"grouping\.patterns=.*: no pattern matches 8 parameters",
    ),
    "value_that_the_model_refuses": (
        ["model=resnet18", "~model.hidden_size", "model.drop_rate=-1"],
        r"model\.drop_rate=-1: ",
    ),
    "image_too_small_for_the_model": (
        ["model=vgg11", "~model.hidden_size"],
        r"data\.image_size=8: vgg11 refuses it: .*; \d+ works",
    ),
    # steps
    "warmup_too_long": (
        ["policy.warmup_steps=21"],
        r"policy\.warmup_steps=21: the warm-up is longer than the training of 20",
    ),
    "event_at_no_group": (
        ["lr_events=[{step: 1, group: fc, lr: 0.1}]"],
        r"lr_events\.group=fc: no such group in the plan; .*head",
    ),
    "event_at_no_index": (
        ["lr_events=[{step: 1, group: 2, lr: 0.1}]"],
        r"lr_events\.group=2: the plan has the groups 0 to 1",
    ),
    "event_after_the_end": (
        ["lr_events=[{step: 20, group: 0, lr: 0.1}]"],
        r"lr_events\.step=20: the training has the steps 0 to 19",
    ),
    "event_at_a_frozen_group": (
        ["freeze=[lstm]", "lr_events=[{step: 1, group: lstm, lr: 0.1}]"],
        r"lr_events\.group=lstm: the group is frozen",
    ),
    "batch_larger_than_the_data": (
        ["batch_size=2000"],
        r"batch_size=2000: is larger than the training set of \d+ images",
    ),
    # settings that each are fine
    "warmup_takes_all": (
        ["policy=cosine", "policy.warmup_steps=20"],
        r"policy\.warmup_steps=20: the warm-up takes all 20 steps of the training, policy=cosine never begins",
    ),
    "milestone_after_the_end": (
        ["policy=multistep", "policy.milestones=[5,30]"],
        r"policy\.milestones=\[5, 30\]: 30 never comes, the training has 20 steps",
    ),
    "milestone_after_the_end_with_warmup": (
        ["policy=multistep", "policy.milestones=[16]", "policy.warmup_steps=5"],
        r"policy\.milestones=\[16\]: 16 never comes, the training has 15 steps after the warm-up",
    ),
    "step_longer_than_the_training": (
        ["policy=step", "policy.step_size=20"],
        r"policy\.step_size=20: the rate never falls, the training has 20 steps",
    ),
    "policy_without_effect": (["policy=wsd", "policy.decay_fraction=0"], r"policy\.decay_fraction=0: the rate never"),
    "floor_at_the_rate": (["policy=cosine", "policy.min_lr=0.001"], r"policy\.min_lr=0\.001: the floor is the base"),
    "floor_above_a_groups_rate": (
        ["policy=cosine", "policy.floor=absolute", "policy.min_lr=0.0009", "mult=0.5"],
        r"policy\.min_lr=0\.0009: the absolute floor is above the rate 0\.0005 of group 1 \(lstm\)",
    ),
    "unfreezing_that_opens_nothing": (
        ["unfreeze.every_steps=20"],
        r"unfreeze\.every_steps=20: the training has 20 steps, so no group but the head would ever open",
    ),
    "two_events_at_one_step": (
        ["lr_events=[{step: 3, group: 0, lr: 0.1}, {step: 3, group: head, lr: 0.2}]"],
        r"lr_events\.1\.lr=0\.2: group head has another rate at step 3, by lr_events\.0",
    ),
    "frozen_and_given_a_rate": (
        ["freeze=[lstm]", "lr_overrides={lstm.bias_hh_l0: 0.1}"],
        r"freeze\.lstm=lstm\.bias_hh_l0: is frozen, but lstm\.bias_hh_l0 gives it the rate 0\.1; drop one",
    ),
    "frozen_by_rate_and_given_a_rate": (
        ["freeze=[lstm]", "freeze_mode=lr_zero", "lr_overrides={lstm: 0.1}"],
        r"freeze\.lstm=lstm\..*: is frozen, but lstm gives it the rate 0\.1; drop one",
    ),
    "frozen_and_given_an_explicit_rate": (
        ["freeze=[head]", "decay=explicit", "decay.rates={head: 0.1}"],
        r"freeze\.head=head\..*: is frozen, but head gives it the rate 0\.1; drop one",
    ),
    "rates_all_zero": (
        ["lr_overrides.head=0", "lr_overrides.lstm=0"],
        r"lr_overrides=.*: the rate of every group is 0, nothing would be trained",
    ),
    "frozen_all_by_rate": (["freeze=['*']", "freeze_mode=lr_zero"], r"freeze=.*: the rate of every group is 0"),
    "frozen_statistics_of_nothing": (["freeze_stats=true"], r"freeze_stats=.*: no parameter is frozen"),
    "rate_that_never_counts": (
        ["decay=explicit", "decay.rates={head: 0.1, head.bias: 0.2}"],
        r"decay\.rates\.head\.bias=0\.2: an earlier entry covers all it matches",
    ),
    "accumulating_more_than_there_is": (["accumulate=5"], r"accumulate=5: an epoch has only 4 batches"),
    "class_weights_all_zero": (
        ["loss.class_weights=[0,0,0,0,0,0,0,0,0,0]"],
        r"loss\.class_weights=.*: at least one must be above 0",
    ),
    "class_weight_nan": (["loss.class_weights=[1,nan]"], r"loss\.class_weights\.1=nan: should be a finite number"),
    "smoothing_twice": (
        ["loss.label_smoothing=0.1", "loss.options={label_smoothing: 0.2}"],
        r"loss\.options\.label_smoothing=0\.2: loss\.label_smoothing says it too",
    ),
    "nesterov_without_momentum": (
        ["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"],
        r"optimizer\.nesterov=.*: sgd refuses: Nesterov momentum requires a momentum",
    ),
    "one_beta": (["optimizer.betas=[0.9]"], r"optimizer\.betas=\[0\.9\]: adam refuses: "),
    "amsgrad_a_word": (["optimizer.amsgrad=yes"], r"optimizer\.amsgrad=yes: must be true or false"),
    "gamma_that_overflows": (
        ["policy=step", "policy.step_size=1", "policy.gamma=1e300"],
        r"policy=step: fails at step 2: OverflowError",
    ),
    "torch_scheduler_that_breaks_later": (
        ["policy=torch", "policy.name=StepLR", "policy.options={step_size: 0}"],
        r"policy\.options=.*: fails at step 1: ZeroDivisionError",
    ),
    # what Hydra would tell over several lines
    "list_for_a_mapping": (["lr_overrides=[1]"], r"lr_overrides=\[1\]: is of another kind"),
    "mapping_for_a_list": (["freeze={a: 1}"], r"freeze=\{a: 1\}: is of another kind"),
    "number_for_a_choice": (["optimizer=5"], r"optimizer=5: must be the name of a choice"),
    "several_values_without_a_sweep": (["lr=0.1,0.2"], r"lr=0\.1,0\.2: several values are for a sweep: add -m"),
    "interpolation_of_nothing": (["lr=${nope}"], r"lr=\$\{nope\}: Interpolation key 'nope' not found"),
    "option_of_hydra": (["+hydra.foo=1"], r"hydra\.foo=1: unknown option"),
    "folder_that_cannot_be_made": (["hydra.run.dir=mistaken.py"], r"hydra\.run\.dir=mistaken\.py: cannot be made"),
    # data and files
    "folder_missing": ([*PHOTOS, "data.path=nowhere"], r"data\.path=.*nowhere: there is no such folder"),
    "folder_empty": ([*PHOTOS, "data.path=empty"], r"data\.path=.*empty: has no folders of images"),
    "folder_is_a_file": ([*PHOTOS, "data.path=mistaken.py"], r"data\.path=.*mistaken\.py: is a file"),
    "class_only_in_validation": (
        [*PHOTOS, "data.path=extra"],
        r"data\.path=.*extra: the class of val/cow is not in train",
    ),
    "dataset_unknown": (
        [*FAKE, "data.dataset=CIFAR11"],
        r"data\.dataset=CIFAR11: torchvision has no such data set; .*CIFAR10",
    ),
    "dataset_not_there": ([*FAKE, "data.dataset=CIFAR10"], r"data\.root=.*: no CIFAR10 there .*data\.download=true"),
    "dataset_option": (
        [*FAKE, "data.options={sise: 4}"],
        r"data\.options=sise: FakeData has no such option; did you mean size",
    ),
    "checkpoint_missing": (
        ["weights=checkpoint", "weights.path=w.pt"],
        r"weights\.path=.*w\.pt: there is no such file",
    ),
    "checkpoint_of_another_model": (
        ["weights=checkpoint", "weights.path=other.safetensors"],
        r"weights\.path=.*: is a checkpoint of another model",
    ),
    "source_task_of_few_classes": (
        [*PHOTOS, "data.path=photos", "weights=source_task"],
        r"weights=source_task: needs at least 4 classes to halve",
    ),
    "pretrained_lstm": (["weights=pretrained"], r"weights=pretrained: none are published"),
    # addresses
    "address_scheme": (["tracking.uri=htp://server:5000"], r"tracking\.uri=htp://server:5000: "),
    "address_port": (["tracking.uri=http://server:x"], r"tracking\.uri=http://server:x: the port must be a number"),
    "address_slashes": (["tracking.uri=sqlite://a.db"], r"tracking\.uri=sqlite://a\.db: three slashes"),
    "address_a_word": (["tracking.uri=mlruns"], r"tracking\.uri=mlruns: "),
    "timeout_zero": (["tracking.timeout=0"], r"tracking\.timeout=0(\.0)?: should be greater than 0"),
    # objects of one's own
    "target_of_no_module": (
        ["decay=custom", "decay._target_=no_such.decay"],
        r"decay\._target_=no_such\.decay: no module no_such",
    ),
    "target_misspelled": (
        ["decay=custom", "decay._target_=mistaken.halve"],
        r"decay\._target_=mistaken\.halve: mistaken has no halve; did you mean halves",
    ),
    "target_no_path": (["policy=custom", "policy._target_=a b"], r"policy\._target_=a b: must be a dotted path"),
    "target_not_callable": (
        ["policy=custom", "policy._target_=mistaken.NUMBER"],
        r"policy\._target_=mistaken\.NUMBER: is a int, not a",
    ),
    "target_option": (
        ["decay=custom", "decay._target_=mistaken.halves", "decay.bse=1"],
        r"decay\.bse=1: mistaken\.halves has no such argument; did you mean base",
    ),
    "target_that_does_not_import": (
        ["grouping=custom", "grouping._target_=unimportable.f"],
        r"grouping\._target_=unimportable\.f: importing unimportable fails: ZeroDivisionError",
    ),
    "target_no_model": (
        ["model=custom", "~model.hidden_size", "model._target_=mistaken.halves"],
        r"model\.index=\?\?\?: must be given: mistaken\.halves needs it",
    ),
    "target_of_another_source": (
        ["model._target_=mistaken.Net"],
        r"model\._target_=mistaken\.Net: is for model=custom",
    ),
    "grouping_no_partition": (
        ["grouping=custom", "grouping._target_=mistaken.one"],
        r"grouping=.*: \d+ parameters are in no group",
    ),
    "decay_negative": (
        ["decay=custom", "decay._target_=mistaken.below"],
        r"decay=-1\.0: the scale of group 0 of 2 must be finite",
    ),
}
MINE = """
import torch
NUMBER = 3
class Net(torch.nn.Module):
    def __init__(self, *, in_chans, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(in_chans, num_classes)
    def forward(self, x):
        return self.head(x.mean(dim=(2, 3)))
def halves(index, count, base=0.5):
    return base**index
def below(index, count):
    return -1
def one(model):
    return [("one", [next(iter(dict(model.named_parameters())))])]
def falls(step):
    return 1 / (step + 1)
"""
COSTLY = """
import sys
import torch
class Costly(torch.nn.Module):
    def __init__(self, *, in_chans, num_classes):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)
        if not self.head.weight.is_meta:
            sys.exit(77)
    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))
"""
# Mistakes that only a model, the data or the optimizer can tell
LATE = [
    "freeze=[nope]", "freeze=['*']", "freeze_stats=true", "lr_overrides={nope: 0.1}",
    "lr_events=[{step: 1, group: nope, lr: 0.1}]", "lr_events=[{step: 99, group: 0, lr: 0.1}]",
    "optimizer=addam", "optimizer.betas=[0.9,2]", "optimizer.eps=tiny", "policy.warmup_steps=99",
    "policy=step;policy.step_size=99", "policy=plateau;policy.metric=val/acc", "unfreeze.every_steps=99",
    "loss.name=MSE", "loss.class_weights=[1,2]", "loss.options={margin: 1}", "accumulate=99", "device=nope",
    "grouping=by_name;grouping.patterns={a: head}", "batch_size=9999",
]  # fmt: skip


@pytest.fixture
def materials(tmp_path: Path) -> None:
    """Folders, files and modules that the mistaken options name."""
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "cow")):
        for folder in ("photos", "extra"):
            if (folder, name) != ("photos", "cow"):
                path = tmp_path / folder / split / name
                path.mkdir(parents=True)
                for number in range(2):
                    Image.new("RGB", (8, 8), (90 * number, 0, 0)).save(path / f"{number}.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mistaken.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "unimportable.py").write_text("1 / 0", encoding="utf-8")
    save_weights(torch.nn.Conv2d(1, 2, 3), tmp_path / "other.safetensors")


def assert_nothing_was_done(folder: Path) -> None:
    """Neither weights nor a journal nor a run in the store."""
    assert not list(folder.rglob("journal.lwexp"))
    assert not list((folder / "outputs").rglob("*.safetensors"))
    store = folder / "outputs" / "mlflow.db"
    if store.exists():
        connection = sqlite3.connect(store)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        connection.close()


@pytest.mark.usefixtures("materials")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_that_names_its_key(mistake: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    options, line = MISTAKES[mistake]
    outcome = lwexp_here("run", *SMALL, *options)
    assert re.fullmatch(rf"error: {line}.*\n", outcome.err), outcome.err
    assert outcome.code == 2
    assert "Traceback" not in outcome.out
    assert_nothing_was_done(tmp_path)


@pytest.mark.parametrize("mistake", LATE)
def test_a_mistake_is_told_before_any_weight_is_allocated(
    mistake: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "costly.py").write_text(COSTLY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    options = [*SMALL, "~model.hidden_size", "model=custom", "model._target_=costly.Costly", "tracking=none"]
    outcome = lwexp_here("run", *options, *mistake.split(";"))
    key = mistake.rpartition(";")[2].partition("=")[0]
    assert outcome.code == 2, outcome
    assert re.fullmatch(rf"error: {re.escape(key)}\b.*\n", outcome.err), outcome.err
    sys.modules.pop("costly", None)
    if mistake == LATE[0]:
        assert lwexp_here("run", *options).code == 77, "the real model tells that it is built"


@pytest.mark.parametrize(
    "mistake", ["freeze=[nope]", "optimizer.betas=[0.9,2]", "policy.warmup_steps=99", "", "optimizer=x"]
)
def test_a_mistake_is_told_before_any_weight_is_downloaded(
    mistake: str, lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        sys.exit(77)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    options = ["model=torchvision", "model.name=resnet18", "weights=pretrained", "tracking=none", "max_steps=20"]
    outcome = lwexp_here("run", *options, *([mistake] if mistake else []))
    assert outcome.code == (2 if mistake else 77)


def test_corrupt_image_is_named_and_the_run_ends_failed(lwexp_here: RunHere, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for split in ("train", "val"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8)).save(tmp_path / "photos" / split / name / f"{number}.png")
    (tmp_path / "photos" / "train" / "dog" / "1.png").write_bytes(b"no image")
    for workers in (0, 2):
        options = [*PHOTOS, "data.path=photos", f"data.workers={workers}"]
        outcome = lwexp_here("run", *SMALL, *options)
        assert outcome.code == 2
        assert re.fullmatch(r"error: data\.path=.*photos: cannot read the image train/dog/1\.png: .*\n", outcome.err)
        start = time.monotonic()
        gc.collect()
        assert time.monotonic() - start < 8, "workers that nobody stopped hold up the process, or the sweep's next job"
    connection = sqlite3.connect(tmp_path / "outputs" / "mlflow.db")
    assert connection.execute("SELECT status FROM runs").fetchall() in ([], [("FAILED",), ("FAILED",)])
    connection.close()


# ---------------------------------------------------------------------------------------------- a server that is silent


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("multirun", [[], ["-m", "mult=0.9,1.0"]], ids=["run", "sweep"])
@pytest.mark.parametrize("server", ["silent", "closed"])
def test_server_that_does_not_answer_is_told_and_stops_no_training(
    server: str, multirun: list[str], lwexp_here: RunHere, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(server)
    options = ["tracking.timeout=0.5", "tracking.flush_timeout=0.2", f"tracking.uri={address}"]
    outcome = lwexp_here("run", *multirun, *SMALL, *options)
    assert outcome.code == 0
    assert re.search(
        rf"^the tracking store {address} is not available \(.*\); the run goes on", outcome.out, re.MULTILINE
    )
    assert re.search(r"metric rows not delivered to .*; nothing is lost: python -m lwexp.sync /", outcome.out)
    jobs = [path.parent for path in tmp_path.rglob("best.safetensors")]
    assert len(jobs) == (2 if multirun else 1)
    assert all((job / "journal.lwexp").stat().st_size > 100 for job in jobs)


def test_failure_is_one_line_of_a_real_process_too(
    lwexp_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = lwexp_command("run", *SMALL, "weights=checkpoint", "weights.path=none.safetensors")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: weights\.path=.*\n", done.stderr)


def test_default_patience_with_a_server_is_below_ten_seconds() -> None:
    assert OmegaConf.load(CONF / "tracking" / "mlflow.yaml").timeout < 10


# ----------------------------------------------------------------------------------------------------------- the schema

FILES = {path: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted(CONF.glob("*/*.yaml"))}
# group -> its choices that need nothing more
CHOICES: dict[str, list[Any]] = {path.parent.name: [] for path in FILES}
for _path, _values in FILES.items():
    if "???" not in str(_values):
        CHOICES[_path.parent.name].append(_values)


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The default config as plain values, its groups read from their files."""
    root = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(root, dict)
    chosen = {group: "lstm" if group == "model" else name for entry in root.pop("defaults") if isinstance(entry, dict)
              for group, name in entry.items() if "hydra" not in group}  # fmt: skip
    del root["hydra"]
    return {**root, **{group: FILES[CONF / group / f"{name}.yaml"] for group, name in chosen.items()}}


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of everything that is not a section."""
    sections = {"loss", "unfreeze", "preview", *CHOICES}
    found = []
    for key, value in values.items():
        found += leaves(value, f"{key}.") if not prefix and key in sections else [f"{prefix}{key}"]
    return found


def changed(values: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    section, _, option = key.rpartition(".")
    return {**values, section: {**values[section], option: value}} if section else {**values, key: value}


def refusal(values: dict[str, Any]) -> ConfigError | None:
    """What `settings` says against `values`, if anything."""
    try:
        settings(OmegaConf.create(values))
    except ConfigError as error:
        return error
    return None


keys = st.text("abc", min_size=1, max_size=3)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5) | st.just("???"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)


def test_any_value_for_any_key_is_taken_or_refused_by_its_key(composed: dict[str, Any]) -> None:
    refused = 0

    @searched(max_examples=150, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal refused
        group = data.draw(st.sampled_from(sorted(CHOICES)))
        values = {**composed, group: data.draw(st.sampled_from(CHOICES[group]))}
        key = data.draw(st.sampled_from(leaves(values)))
        error = refusal(changed(values, key, data.draw(anything)))
        if error is not None:
            refused += 1
            section, _, option = key.rpartition(".")
            named = {key} | ({section} if option in ("name", "kind", "source") else set())
            assert any(error.key == name or error.key.startswith(f"{name}.") for name in named), (key, error)
            assert "\n" not in str(error)

    check()
    assert refused > 50, "the values are not wrong enough"


def mutated(draw: st.DrawFn, name: str, taken: Iterable[str]) -> str:
    """`name` with a letter doubled, left out, or swapped with its neighbour; none of `taken`."""
    place = draw(st.integers(0, len(name) - 1))
    forms = [name[:place] + name[place] + name[place:], name[:place] + name[place + 1 :]]
    forms.append(name[:place] + name[place : place + 2][::-1] + name[place + 2 :])
    return draw(st.sampled_from([form for form in forms if form not in taken and form.isidentifier()] or [f"{name}x"]))


# What the choices without defaults need, so that nothing else is missing
NEEDED = {
    "data/image_folder": ["data.path=photos"],
    "data/torchvision": ["data.dataset=FakeData"],
    "decay/custom": ["decay._target_=mistaken.halves"],
    "grouping/custom": ["grouping._target_=mistaken.one"],
    "model/custom": ["model._target_=mistaken.Net"],
    "model/timm": ["model.name=resnet18"],
    "policy/custom": ["policy._target_=mistaken.falls"],
    "policy/multistep": ["policy.milestones=[2]"],
    "policy/torch": ["policy.name=StepLR", "policy.options={step_size: 1}"],
    "weights/checkpoint": ["weights.path=other.safetensors"],
}
NUMBERS = {"max_steps", "clip_grad_norm", "unfreeze.every_epochs", "unfreeze.every_steps", "checkpoint.every_steps",
           "checkpoint.every_minutes"}  # null by default  # fmt: skip
CHOSEN_FROM = {"freeze_mode", "precision", "nonfinite", "floor", "warmup", "mode", "decay_shape", "interval", "source",
               "order"}  # fmt: skip
STRUCTURES = ["[[{a: 1}]]", "{a: {b: [1]}}", "[[[0]]]"]
OPEN_MAPPINGS = ("model.config", "data.options", "loss.options", "policy.options")


@st.composite
def mistakes(draw: st.DrawFn, root: dict[str, Any]) -> tuple[list[str], str]:
    """Options with one mistake, and the key that it is under."""
    path = draw(st.sampled_from(sorted(FILES)))
    group, name = path.parent.name, path.stem
    needed = NEEDED.get(f"{group}/{name}", [])
    options = [*SMALL, *(["~model.hidden_size"] if group == "model" and name != "lstm" else []), f"{group}={name}"]
    if group == "data":
        options.remove("data.image_size=8")
    values = draw(st.sampled_from([{group: FILES[path]}] * 3 + [root]))
    key = draw(st.sampled_from([k for k in leaves(values) if not k.endswith("_target_")]))
    section, _, option = key.rpartition(".")
    kind = draw(st.sampled_from(["value", "value", "name", "choice", "event"]))
    if kind == "choice":
        others = {other.stem for other in FILES if other.parent.name == group}
        wrong = mutated(draw, name, others)
        return [*SMALL[:1], f"{group}={wrong}"], group
    if kind == "event":
        wrong = mutated(draw, draw(st.sampled_from(["step", "group", "lr"])), ["step", "group", "lr"])
        return [*SMALL, f"lr_events=[{{step: 1, group: 0, lr: 0.1, {wrong}: 1}}]"], f"lr_events.0.{wrong}"
    if kind == "name":
        siblings = values.get(section, values)
        wrong = ".".join(part for part in (section, mutated(draw, option, siblings)) if part)
        return [*options, *needed, f"{draw(st.sampled_from(['', '+', '++']))}{wrong}=1"], wrong
    known = values[section][option] if section in values else values[key]
    bad = list(STRUCTURES)
    if key in OPEN_MAPPINGS or isinstance(known, dict):
        bad = ["[[{a: 1}]]", "[[[0]]]", "5", "abc"]
    elif isinstance(known, bool):
        bad += ["5", "abc", "-1", "1.5", "null" if group != "optimizer" else "abc"]
    elif isinstance(known, (int, float)) or key in NUMBERS:
        bad += ["abc", "-1", "nan", "inf", "true", draw(st.text("abcxyz", min_size=2, max_size=8))]
        bad += ["1.5", "2.25"] if isinstance(known, int) else []
        bad.append(str(draw(st.integers(-(10**12), -1))))
    elif option in CHOSEN_FROM:
        bad += ["5", draw(st.text("qxyz", min_size=3, max_size=8))]
    elif known == "auto":  # true and false are no mistakes of all such keys
        bad += ["abc", "1.5"]
    elif isinstance(known, list):
        bad += ["abc", "5", "true"]
    else:
        bad += ["5", "1.5", "true"]
    return [*options, *needed, f"{key}={draw(st.sampled_from(bad))}"], key


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra composes twice for each command, from files read anew; here once, from files read once: saves minutes."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
    from hydra._internal.hydra import Hydra

    monkeypatch.setattr(Hydra, "get_mode", lambda self, *_, **__: None)  # as Hydra itself has it of a mistaken config
    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        load = functools.lru_cache(maxsize=None)(source.load_config)
        monkeypatch.setattr(
            source, "load_config", lambda self, config_path, load=load: copy.deepcopy(load(self, config_path))
        )


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("materials", "read_once")
def test_generated_mistakes_are_told_by_the_command_in_one_line_with_their_key(
    count: int, composed: dict[str, Any], lwexp_here: RunHere, tmp_path: Path
) -> None:
    root = {key: value for key, value in composed.items() if key not in CHOICES}
    told: set[tuple[str, ...]] = set()

    @searched(max_examples=count + 100, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(mistakes(root))
    def check(mistake: tuple[list[str], str]) -> None:
        options, key = mistake
        if tuple(options) in told or len(told) >= count:
            return
        outcome = lwexp_here("run", *options)
        section, _, option = key.rpartition(".")
        named = {key, section} if option in ("name", "kind", "source") else {key}
        keys = "|".join(re.escape(name) for name in named)
        assert outcome.code == 2, (options, outcome)
        assert re.fullmatch(rf"error: ({keys})(\.[^\n=]*)?=[^\n]*\n", outcome.err), (options, outcome.err)
        assert outcome.out == "", options
        told.add(tuple(options))

    check()
    assert_nothing_was_done(tmp_path)
    print(f"{len(told)} generated mistakes and {len(MISTAKES)} written ones")
    assert len(told) == count


def test_value_of_a_wrong_type_is_refused_under_every_key(composed: dict[str, Any]) -> None:
    for key in leaves(composed):
        if key.startswith(("model.", "optimizer.")) and key not in ("model.source", "optimizer.name"):
            continue  # known to their classes only
        with pytest.raises(ConfigError) as caught:
            settings(OmegaConf.create(changed(composed, key, [[{"a": 1}]])))
        named = caught.value.key
        assert named == key or named.startswith(f"{key}.") or key == f"{named}.name", (key, str(caught.value))


def test_key_off_by_a_letter_is_refused_with_its_neighbour(composed: dict[str, Any]) -> None:
    for key in leaves(composed):
        if key.rpartition(".")[2] in ("name", "kind", "source") or key.startswith(("model.", "optimizer.")):
            continue  # known to their classes only
        section, _, option = key.rpartition(".")
        values = changed(composed, f"{section}.{option}s" if section else f"{option}s", 1)
        with pytest.raises(UnknownOptionError, match=rf"did you mean .*\b{option}\b") as caught:
            settings(OmegaConf.create(values))
        assert caught.value.key == f"{key}s"
