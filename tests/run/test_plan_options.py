"""Options of the optimizer, relative rates and the decay by its ends, in runs of two steps and in what they leave."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import lwexp
from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, Store, folders, small_lstm

TWO = [*SMALL[:-2], "max_steps=2", "progress=false"]
OPTIONS = [
    "optimizer=adamw", "optimizer.weight_decay=0.1", "grouping=depth_index", "mult=0.5",
    "group_options={head: {betas: [0.8, 0.9]}}", "group_options.lstm.weight_hh_l1.eps=1e-6",
    "no_weight_decay=[lstm.bias*]", "weight_decay_mult=0.5", "independent_weight_decay=true",
]  # fmt: skip


class Groups(lwexp.Callback):
    """Keeps the options of each parameter."""

    def setup(self, learner: Any, tracker: Any) -> None:
        names = {id(p): name for name, p in learner.model.named_parameters()}
        self.of = {names[id(p)]: group for group in learner.optimizer.param_groups for p in group["params"]}


@pytest.mark.usefixtures("no_pictures")
def test_a_run_trains_with_the_options_of_each_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    groups = Groups()
    lwexp.run_job(*TWO, *OPTIONS, "tracking=none", callbacks=[groups])
    of = groups.of
    assert of["head.weight"]["betas"] == (0.8, 0.9)
    assert of["lstm.weight_hh_l1"]["betas"] == (0.9, 0.999)
    assert (of["lstm.weight_hh_l1"]["eps"], of["lstm.weight_ih_l1"]["eps"]) == (1e-6, 1e-8)
    # 0.1 * 0.5 ** index, divided by the group's scale 0.5 ** index
    assert {of[name]["weight_decay"] for name in ("head.weight", "lstm.weight_hh_l1", "lstm.weight_hh_l0")} == {0.1}
    assert {group["weight_decay"] for name, group in of.items() if name.startswith("lstm.bias")} == {0.0}
    (folder,) = folders(tmp_path)
    rows = list(csv.DictReader((folder / "plan.csv").read_text().splitlines()))
    assert [row["weight_decay"] for row in rows] == ["0.1", "0.1 (2 of 4), 0 (2 of 4)", "0.1 (2 of 4), 0 (2 of 4)"]
    assert [row["betas"] for row in rows] == ["[0.8, 0.9]", "", ""]


@pytest.mark.usefixtures("no_pictures")
def test_the_multiplier_that_follows_from_the_ends_is_in_the_params(lwexp_here: RunHere, store: Store) -> None:
    outcome = lwexp_here("run", *TWO, "lr=1e-3", "decay.stem_lr=1e-5", "lr_mults={head: 10}", "no_weight_decay=[head]")
    assert outcome.code == 0, outcome.err
    run = store.run()
    assert "decay.stem_lr=1e-05" in run.info.run_name
    assert "mult=0" not in run.info.run_name
    params = run.data.params
    assert float(params["mult"]) == pytest.approx(0.01)
    assert (params["decay.stem_lr"], params["lr_mults"]) == ("1e-05", json.dumps({"head": 10.0}))
    assert params["no_weight_decay"] == json.dumps(["head"])
    assert run.data.metrics["lr/00_head"] == pytest.approx(1e-2)
    assert run.data.metrics["lr/01_lstm"] == pytest.approx(1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_resume_goes_on_with_the_options_and_refuses_others(lwexp_here: RunHere, tmp_path: Path) -> None:
    short = [*TWO, "tracking=none", *OPTIONS, "checkpoint.every_steps=1", "decay.stem_lr=1e-4", "mult=null"]
    outcome = lwexp_here("run", *[option for option in short if option != "mult=0.5"])
    assert outcome.code == 0, outcome.err
    (folder,) = folders(tmp_path)
    resumed = lwexp_here("run", f"resume={folder}", "max_steps=3")
    assert resumed.code == 0, resumed.err
    other = lwexp_here("run", f"resume={folder}", "max_steps=4", "group_options.head.betas=[0.5,0.6]")
    assert other.code == 2
    assert "group_options" in other.err
    remapped = lwexp_here(
        "run", f"resume={folder}", "max_steps=4", "group_options.head.betas=[0.5,0.6]", "checkpoint.remap=true"
    )
    assert remapped.code == 0, remapped.err


def test_entries_of_the_command_come_before_those_of_a_file(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    text = "defaults: [config, _self_]\nlr_mults: {'*': 2}\ngroup_options: {lstm: {eps: 1e-6, weight_decay: 1}}\n"
    (tmp_path / "mine" / "own.yaml").write_text(text)
    outcome = lwexp_here(
        "preview", "--config-dir", "mine", "--config-name", "own", *TWO, "lr_mults={head: 10}", "lr=1",
        "group_options={lstm.weight_hh_l0: {eps: 1e-4}}", "preview.json=plan.json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [(group["name"], group["scale"]) for group in plan["groups"]] == [("head", 10), ("lstm", 0.95 * 2)]
    options = {name: part["options"] for part in plan["groups"][1]["parts"] for name in part["parameter_names"]}
    assert options["lstm.weight_hh_l0"] == {"eps": 1e-4, "weight_decay": 1.0}
    assert options["lstm.weight_hh_l1"] == {"eps": 1e-6, "weight_decay": 1.0}


def test_ulmfit() -> None:
    """ULMFiT (arXiv:1801.06146): each layer at 1/2.6 of the rate above it; here with a head ten times as fast."""
    plan = lwexp.make_plan(small_lstm(), grouping="depth_index", lr=0.01, mult=1 / 2.6, lr_mults={"head": 10})
    assert [(g.name, g.lr) for g in plan.groups] == [
        ("head", 0.1), ("lstm.layer1", pytest.approx(0.01 / 2.6)), ("lstm.layer0", pytest.approx(0.01 / 2.6**2)),
    ]  # fmt: skip
