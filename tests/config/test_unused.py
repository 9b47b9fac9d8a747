"""An option of the command line that changes nothing is a note: those that leave plan and schedule as they are."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lwexp.config.compose import plain
from lwexp.config.unused import unused
from lwexp.config.validation import check
from lwexp.core.decay import ALIASES, DECAYS
from lwexp.data import DataSource
from lwexp.experiment.instantiate import build_optimizer
from lwexp.experiment.planning import build_plan, build_schedule
from lwexp.experiment.unused_here import unused_here
from lwexp.models.build import BuiltModel, draft_model
from tests.cli.mistakes import SMALL
from tests.config.test_conf import CHOICES
from tests.helpers.commands import RunHere
from tests.sweep.test_twins import loader

STEPS, PER_EPOCH = 24, 6
# Other values than the defaults of all options that shape rates; a choice lacks most of them
VALUES: dict[str, Any] = {
    "lr": 0.02, "mult": 0.5, "freeze_mode": "lr_zero", "index_from": "trained", "independent_weight_decay": True,
    "weight_decay_mult": 0.5, "no_weight_decay": True, "decay.min_scale": 0.3, "decay.power": 3.0,
    "decay.stem_lr": 1e-5, "policy.warmup_steps": 3, "policy.warmup_fraction": 0.2, "policy.warmup_epochs": 1.5,
    "policy.warmup": "hold", "policy.convention": "transformers", "policy.min_lr": 9.9e-4, "policy.floor": "absolute",
    "policy.cycles": 3, "policy.cycle_steps": 5, "policy.cycle_mult": 2, "policy.timescale": 7, "policy.gamma": 0.3,
    "policy.step_size": 3, "policy.milestones": [2, 4], "policy.pct_start": 0.5, "policy.div_factor": 3.0,
    "policy.final_div_factor": 7.0, "policy.power": 3.0, "policy.beta": 0.2, "policy.cut_fraction": 0.4,
    "policy.ratio": 5.0, "policy.k": 0.2, "policy.decay_fraction": 0.6, "policy.decay_shape": "sqrt",
    "policy.interval": "epoch", "unfreeze.every_steps": 4,
}  # fmt: skip
NEEDED = {
    "policy/step": {"policy.step_size": 5}, "policy/multistep": {"policy.milestones": [5]},
    "policy/torch": {"policy.name": "StepLR", "policy.options": {"step_size": 2}},
    "decay/explicit": {"decay.rates": {"head": 0.01}},
}  # fmt: skip
# What else is set, in which an option that changes nothing may change something, or the other way round
SETTINGS: dict[str, dict[str, Any]] = {
    "": {},
    "frozen head": {"freeze": ["head"]},
    "no fall": {"mult": 1.0},
    "floor": {"policy.min_lr": 2e-4},
    "warm-up": {"policy.warmup_steps": 4},
    "held warm-up": {"policy.warmup_steps": 4, "policy.warmup": "hold"},
    "absolute rates": {"lr_overrides": {"head": 0.01, "lstm": 0.02}},
    "factors": {"lr_mults": {"head": 2.0}},
    "phases": {"phases": [{"steps": 4, "policy": "cosine"}, {"policy": "linear"}]},
    "policies": {"policies": {"head": "cosine", "lstm": "linear"}},
    "one group": {"grouping": {"name": "by_name", "patterns": {"all": "*"}}},
}
_WARM = ("floor", "warm-up", "held warm-up")
CASES = [
    *((choice, "") for choice in CHOICES if choice.startswith("policy/") and "custom" not in choice),
    # not the measured decays, whose rates come in the training
    *((f"decay/{name}", "") for name in (*DECAYS, *ALIASES)),
    *(("decay/linear", name) for name in SETTINGS if name),
    *((f"policy/{name}", setting) for name in ("cosine", "constant", "step") for setting in _WARM),
    *((f"decay/{decay}", "frozen head") for decay in ("none", "cosine")),
]  # fmt: skip


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    from hydra.types import RunMode

    return plain(loader().load_configuration("config", list(overrides), RunMode.RUN))


@functools.cache
def model() -> BuiltModel:
    config = check(composed("model=lstm", "model.hidden_size=8"))
    return draft_model(config.model, channels=1, classes=3, image_size=8).on_meta()


def effect(values: dict[str, Any]) -> Any:
    """All that a training takes from a config's plan and schedule."""
    config = check(values)
    plan = build_plan(config, model())
    schedule = build_schedule(config, plan, STEPS, PER_EPOCH)
    rates = [schedule.rates(step) for step in range(STEPS)]
    groups = [
        sorted((key, value) for key, value in group.items() if key != "params")
        for group in build_optimizer(config, plan).param_groups
    ]
    return rates, repr(groups)


@pytest.mark.parametrize(("chosen", "setting"), CASES)
def test_what_changes_nothing_is_known_and_nothing_else(chosen: str, setting: str) -> None:
    group, _, name = chosen.partition("/")
    base = copy.deepcopy(composed("model=lstm", "model.hidden_size=8", "optimizer=adamw", f"{group}={name}"))
    base["grouping"] = {"name": "by_name", "patterns": {"head": "head", "late": "lstm.*_hh_*", "early": "*"}}
    for key, value in (NEEDED.get(chosen, {}) | SETTINGS[setting]).items():
        set_key(base, key, copy.deepcopy(value))
    before, source, wrong = effect(base), DataSource.__new__(DataSource), []
    source.cut = None
    for key, value in VALUES.items():
        section, _, option = key.rpartition(".")
        known = not section or option in base[section] or key == "policy.min_lr"
        if not known or (key.startswith("policy.warmup_") and "warm-up" in setting):
            continue
        if key == "policy.min_lr" and name == "plateau":
            continue  # reached after some evaluations
        values = copy.deepcopy(base)
        set_key(values, key, "linear" if (key, setting) == ("policy.warmup", "held warm-up") else value)
        if key == "decay.stem_lr":  # in the place of the other end
            values["mult"] = None
            values["decay"].pop("min_scale", None)
            if setting == "no fall":
                continue
        if setting == "one group" and key in ("weight_decay_mult", "independent_weight_decay", "mult", "decay.stem_lr"):
            continue  # the plan itself says that there is one group
        config = check(values)
        schedule = build_schedule(config, build_plan(config, model()), STEPS, PER_EPOCH)
        told = unused_here(config, {key: "x"}, source, schedule, STEPS)
        idle = {*unused(config, [key]), *(line.partition("=")[0] for line in told)}
        if (effect(values) == before) != (key in idle):
            wrong.append((key, "changes nothing" if key not in idle else "changes something"))
    assert not wrong


def test_each_note_names_option_value_and_reason(lwexp_here: RunHere) -> None:
    given = {
        "mult=0.9": "decay=cosine does not use it, decay=linear does",
        "freeze_mode=lr_zero": "nothing is frozen",
        "policy.floor=absolute": "there is no floor; policy.min_lr sets one",
        "policy.warmup=hold": "there is no warm-up",
        "sync_batchnorm=false": "the training is in one process",
        "checkpoint.remap=true": "nothing is resumed",
        "sweep.report=false": "this is one run; -m starts a sweep",
        "preview.csv=plan.csv": "only lwexp.preview writes it",
        "epochs=5": "max_steps=10 ends the training before",
    }
    options = [option for option in SMALL if option not in given and not option.startswith("max_steps")]
    outcome = lwexp_here("run", *options, "tracking=none", "decay=cosine", "policy=cosine", "max_steps=10", *given)
    assert outcome.code == 0, outcome.err
    for option, why in given.items():
        assert re.search(rf"^note: {re.escape(option)} changes nothing: {re.escape(why)}", outcome.out, re.MULTILINE), (
            option
        )
    assert outcome.out.count("changes nothing") == len(given)


def test_what_is_used_and_what_is_not_given_has_no_note(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("preview", *SMALL[:4], "mult=0.9", "freeze=[head]", "freeze_mode=lr_zero", "preview.csv=p.csv")
    assert outcome.code == 0
    assert "changes nothing" not in outcome.out


def test_a_split_of_the_datas_own_leaves_nothing_to_cut(lwexp_here: RunHere, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8)).save(tmp_path / "photos" / split / name / f"{number}.png")
    options = ["data=image_folder", "data.path=photos", "data.image_size=8", "batch_size=2", "model=lstm"]
    outcome = lwexp_here("preview", *options, "data.val_fraction=0.3", "data.split_seed=1")
    for key in ("data.val_fraction=0.3", "data.split_seed=1"):
        assert f"note: {key} changes nothing: the data have a val split of their own\n" in outcome.out
    for path in (tmp_path / "photos" / "val").rglob("*.png"):
        path.rename(tmp_path / "photos" / "train" / path.parent.name / f"v{path.name}")
    for folder in (*(tmp_path / "photos" / "val").iterdir(), tmp_path / "photos" / "val"):
        folder.rmdir()
    outcome = lwexp_here("preview", *options, "data.val_fraction=0.3", "data.split_seed=1")
    assert outcome.code == 0
    assert "changes nothing" not in outcome.out


def test_rules_hold_for_a_vocabulary_and_a_switched_off_section() -> None:
    config = SimpleNamespace(
        data=SimpleNamespace(tokenizer="bert-base-uncased"), model=None, ema=SimpleNamespace(decay=None, start=3)
    )
    found = unused(config, ["data.vocabulary", "ema.start", "ema.decay"])  # type: ignore[arg-type]
    assert {*found} == {"data.vocabulary", "ema.start"}
