"""Mistaken options, and the beginning of the line that each must end in."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.helpers.commands import ROOT

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
    "tracking": (["tracking=comet"], r"tracking=comet: no such choice; choices: mlflow, none, tensorboard, wandb"),
    "optimizer": (["optimizer=addam"], r"optimizer=addam: no such optimizer; did you mean .*adam"),
    "loss": (
        ["loss.name=CrossEntropy"],
        r"loss\.name=CrossEntropy: no such loss in torch.nn; did you mean CrossEntropyLoss",
    ),
    "torch_scheduler": (["policy=torch", "policy.name=StepLr"], r"policy\.name=StepLr: no such class .*StepLR"),
    "metric": (["policy=plateau", "policy.metric=val/acc"], r"policy\.metric=val/acc: no such metric; .*val/accuracy"),
    "monitor": (
        ["monitor=val/acuracy"],
        r"monitor=val/acuracy: no such metric .*did you mean val/accuracy",
    ),
    "monitor_test": (["monitor=test/loss"], r"monitor=test/loss: no such metric of an evaluation; .*val/loss"),
    "monitor_mode": (
        ["monitor_mode=min"],
        r"monitor_mode=min: is the direction of monitor, .*name the metric",
    ),
    "device": (["device=gpu"], r"device=gpu: no such device; did you mean cuda\? here there are auto, cpu"),
    "precision": (["precision=fp8"], r"precision=fp8: should be 'fp32', 'bf16' or 'fp16'"),
    "workers": (["data.workers=two"], r"data\.workers=two: should be a valid integer, or 'auto'"),
    "cache": ([*PHOTOS, "data.path=photos", "data.cache=x"], r"data\.cache=x: should be a valid boolean, or 'auto'"),
    "freeze_mode": (["freeze_mode=zero"], r"freeze_mode=zero: should be 'requires_grad' or 'lr_zero'"),
    "new_key": (["+newkey=1"], r"newkey=1: unknown option; choices: "),
    "new_section": (["+new.key=1"], r"new=.*: unknown option; "),
    "flag": (["--multirn"], r"command line=--multirn: no such flag .*--multirun"),
    "malformed_override": (["mult=[0.9"], r"mult=\[0\.9: has a '\[' without its pair; a list is written \[a,b\]"),
    "no_equals_sign": (["mult"], r"override=mult: options are written key=value"),
    "two_equals_signs": (["mult==0.9"], r"mult==0\.9: options are written with one equals sign, mult=0\.9"),
    "option_that_hydra_cannot_read": (["mült=0.9"], r"mült=0\.9: unknown option; did you mean mult\?"),
    "logging_that_does_not_exist": (["hydra/job_logging=colorlog"], r"hydra/job_logging=colorlog: no such choice; "),
    "logging_level": (
        ["hydra.hydra_logging.root.level=LOUD"],
        r"hydra\.hydra_logging\.root\.level=LOUD: Python's logging refuses this configuration: .*'LOUD'",
    ),
    # values that cannot be
    "mult_a_word": (["mult=abc"], r"mult=abc: should be a valid number"),
    "mult_negative": (["mult=-1"], r"mult=-1(\.0)?: should be greater than 0"),
    "mult_nan": (["decay=explicit", "mult=nan"], r"mult=nan: should be a finite number"),
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
    "muon_adamw": (["optimizer=muon", "optimizer.adamw=true"], r"optimizer\.adamw=True: must be a pattern or a list"),
    "rates_nan": (["decay=explicit", "decay.rates={head: nan}"], r"decay\.rates\.head=nan: must be finite"),
    "factor_negative": (["lr_mults.head=-1"], r"lr_mults\.head=-1(\.0)?: should be greater than or equal to 0"),
    "factor_and_rate": (
        ["lr_mults={head: 10}", "lr_overrides={head.bias: 0.1}"],
        r"lr_mults\.head=10(\.0)?: multiplies the rate of head\.bias, which lr_overrides\.head\.bias sets to 0\.1",
    ),
    "split_of_nothing": (["split_groups=[haed]"], r"split_groups=haed: the pattern matches no .*; did you mean head"),
    "stem_and_multiplier": (
        ["decay.stem_lr=1e-5", "mult=0.95"],
        r"decay\.stem_lr=1e-05: lr=0\.001 and 2 groups make mult=0\.01, but mult=0\.95 is given; drop one",
    ),
    "stem_and_min_scale": (
        ["decay=cosine", "decay.stem_lr=1e-5", "decay.min_scale=0.1"],
        r"decay\.stem_lr=1e-05: .* make min_scale=0\.01, but min_scale=0\.1 is given",
    ),
    "stem_above_the_head": (["decay=cosine", "decay.stem_lr=1"], r"decay\.stem_lr=1: must be at most lr=0\.001"),
    "no_multiplier": (["mult=null"], r"mult=null: must be given, or decay\.stem_lr, from which it follows"),
    "group_option_unknown": (
        ["group_options.lstm.bias_hh_l0.weight_decy=0"],
        r"group_options\.lstm\.bias_hh_l0\.weight_decy=0: adam has no such option; did you mean weight_decay",
    ),
    "group_options_without_any": (["group_options.head=3"], r"group_options\.head=3: should be a valid dictionary"),
    "group_option_that_never_counts": (
        ["group_options={head: {weight_decay: 0.1}, head.bias: {weight_decay: 0.2}}"],
        r"group_options\.head\.bias\.weight_decay=0\.2: no parameter has it: an earlier entry, no_weight_decay or",
    ),
    "no_weight_decay_of_nothing": (["no_weight_decay=[haed]"], r"no_weight_decay=haed: .*; did you mean head"),
    "weight_decay_of_zero": (["weight_decay_mult=0.9"], r"weight_decay_mult=0\.9: optimizer\.weight_decay is 0"),
    "weight_decay_of_rprop": (
        ["optimizer=rprop", "independent_weight_decay=true"],
        r"independent_weight_decay=True: optimizer=rprop has no weight decay",
    ),
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
    "meta_device": (["device=meta"], r"device=meta: has no storage to train on"),
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
    "list_for_a_mapping": (["lr_overrides=[1]"], r"lr_overrides=\[1\]: is of the wrong type"),
    "mapping_for_a_list": (["freeze={a: 1}"], r"freeze=\{a: 1\}: is of the wrong type"),
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
# Mistakes that only a model, the data or the optimizer can tell
LATE = [
    "freeze=[nope]", "freeze=['*']", "freeze_stats=true", "lr_overrides={nope: 0.1}",
    "lr_events=[{step: 1, group: nope, lr: 0.1}]", "lr_events=[{step: 99, group: 0, lr: 0.1}]",
    "optimizer=addam", "optimizer.betas=[0.9,2]", "optimizer.eps=tiny", "policy.warmup_steps=99",
    "policy=step;policy.step_size=99", "policy=plateau;policy.metric=val/acc", "unfreeze.every_steps=99",
    "loss.name=MSE", "loss.class_weights=[1,2]", "loss.options={margin: 1}", "accumulate=99", "device=nope",
    "grouping=by_name;grouping.patterns={a: head}", "batch_size=9999",
]  # fmt: skip


def assert_nothing_was_done(folder: Path) -> None:
    """Neither weights nor a journal nor a run in the store."""
    assert not list(folder.rglob("journal.lwexp"))
    assert not list((folder / "outputs").rglob("*.safetensors"))
    store = folder / "outputs" / "mlflow.db"
    if store.exists():
        connection = sqlite3.connect(store)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        connection.close()
