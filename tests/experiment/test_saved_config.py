"""The config that a resumed run has, and the code that it may name."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.experiment.resumed_runs import RUN, composed, one_line, only_run, written
from tests.helpers.commands import RunHere


def test_the_config_is_the_runs_with_the_command_line_on_top(lwexp_here: RunHere, tmp_path: Path) -> None:
    before = composed(
        lwexp_here, "model=lstm", "model.hidden_size=8", "policy=cosine", "policy.min_lr=1e-3", "lr=0.5", "epochs=7",
        "lr_overrides={layer4.0: 0.1, fc: 0.2}", "optimizer=lamb", "freeze=[a,b]", "loss.label_smoothing=0.1",
        "checkpoint.remap=true", "checkpoint.allow_targets=[x.y]", "preview.csv=p.csv",
    )  # fmt: skip
    del before["nonfinite"], before["checkpoint"]["keep"]  # as if the version that wrote it had not had them
    written(tmp_path / "run", before)
    defaults = composed(lwexp_here)
    same = composed(lwexp_here, "resume=run")
    expected = before | {"nonfinite": "stop", "resume": str(tmp_path / "run"), "preview": defaults["preview"]}
    expected["checkpoint"] = {**before["checkpoint"], "keep": 2, "remap": False, "allow_targets": []}
    assert same == expected
    assert list(same["lr_overrides"]) == ["layer4.0", "fc"] or list(same["lr_overrides"]) == ["layer4", "fc"]

    now = composed(
        lwexp_here, "policy=linear", "policy.warmup_steps=3", "resume=run", "epochs=9", "model.hidden_size=16",
        "loss.name=NLLLoss",
    )  # fmt: skip
    linear = composed(lwexp_here, "policy=linear", "policy.warmup_steps=3")["policy"]
    assert now == expected | {
        "policy": linear, "epochs": 9, "model": {**before["model"], "hidden_size": 16},
        "loss": {**before["loss"], "name": "NLLLoss"},
    }  # fmt: skip


def test_a_preview_shows_the_plan_of_a_run(lwexp_here: RunHere, tmp_path: Path) -> None:
    model = {"source": "lstm", "hidden_size": 8, "num_layers": 2, "dropout": 0.0, "bidirectional": False}
    written(tmp_path / "run", {"model": model, "lr": 0.125, "preview": {"csv": "no.csv"}})
    outcome = lwexp_here("preview", "resume=run")
    assert outcome.code == 0, outcome.err
    assert "1.250000e-01" in outcome.out
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    assert not (tmp_path / "no.csv").exists()


def test_the_order_of_overrides_is_that_of_the_first_start(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").write_text("defaults: [config, _self_]\nlr_overrides: {lstm: 0.1}\n")
    options = ["--config-dir", "mine", "--config-name", "own", *RUN, "lr_overrides={lstm.bias_ih_l0: 0.2}"]
    outcome = lwexp_here("run", *options, "max_steps=1")
    assert outcome.code == 0, outcome.err
    kept = OmegaConf.load(only_run(tmp_path) / "config.yaml")
    assert list(kept.lr_overrides) == ["lstm.bias_ih_l0", "lstm"]


def test_an_address_whose_password_was_not_kept_is_asked_for(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = {"name": "mlflow", "uri": "postgresql://anna:***@db:5432/runs", "experiment": "mine", "timeout": 8.0,
                "flush_timeout": 60.0}  # fmt: skip
    written(tmp_path / "run", {"tracking": tracking})
    line = one_line(lwexp_here("run", "resume=run"))
    assert line.startswith("tracking.uri=postgresql://anna:***@db:5432/runs: its secret is not saved in")
    again = composed(lwexp_here, "resume=run", "tracking.uri=sqlite:///my.db")["tracking"]
    since = {"rates_every": 1, "system_metrics": False, "model": True, "register_model": None}  # keys of later versions
    assert again == {**tracking, **since, "uri": "sqlite:///my.db"}
    assert composed(lwexp_here, "resume=run", "tracking=none")["tracking"] == {"name": "none"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")
    assert composed(lwexp_here, "resume=run")["tracking"] == {**tracking, **since, "uri": None}


WRITES = """
import pathlib
pathlib.Path("executed").touch()
import torch

class Net(torch.nn.Module):
    def __init__(self, *, num_classes, in_chans):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))

def halves(model):
    names = [name for name, _ in model.named_parameters()]
    return [("late", names[2:]), ("early", names[:2])]
"""


@pytest.fixture
def evil(lwexp_here: RunHere, tmp_path: Path) -> Path:
    """A config that names code in the current folder, which leaves a file when it is imported."""
    (tmp_path / "evil.py").write_text(WRITES, encoding="utf-8")
    sys.modules.pop("evil", None)
    values = composed(lwexp_here, *RUN[3:], "model=custom", "model._target_=evil.Net", "data.image_size=8")
    values["grouping"] = {"name": "custom", "_target_": "evil.halves"}
    return written(tmp_path / "run", values)


def test_code_that_a_config_names_runs_only_where_the_command_line_allows_it(
    lwexp_here: RunHere, evil: Path, tmp_path: Path
) -> None:
    values = OmegaConf.load(evil / "config.yaml")
    values.checkpoint.allow_targets = ["evil.Net", "evil.halves"]  # of the file itself: counts for nothing
    OmegaConf.save(values, evil / "config.yaml")
    for extra in ([], ["model._target_=evil.Net"], ["checkpoint.allow_targets=[evil.Net]"]):
        line = one_line(lwexp_here("run", "resume=run", *extra))
        assert "the run's config would execute " in line
        assert "evil.halves" in line
        assert not (tmp_path / "executed").exists()
        option = shlex.split(line.partition("; allow it with ")[2])
    assert option == ["checkpoint.allow_targets=[evil.Net,evil.halves]"]
    assert one_line(lwexp_here("preview", "resume=run")).startswith("checkpoint.allow_targets=[]: ")
    assert lwexp_here("run", "resume=run", *option, "max_steps=1").code == 0
    assert (tmp_path / "executed").exists()


def test_what_is_named_again_or_chosen_anew_is_allowed(lwexp_here: RunHere, evil: Path) -> None:
    given = ["model._target_=evil.Net", "grouping._target_=evil.halves"]
    assert composed(lwexp_here, "resume=run", *given)["model"]["_target_"] == "evil.Net"
    assert composed(lwexp_here, "resume=run", "model=lstm", "grouping=top_module")["model"]["source"] == "lstm"


@pytest.mark.parametrize("values", [
    {"model": {"source": "custom", "target": "evil.Net"}},
    {"decay": {"name": "custom", "_target_": "evil.f"}},
    {"policy": {"name": "linear", "deep": {"list": [1, {"_target_": "evil.f"}]}}},
    {"model": {"source": "huggingface", "name": "x", "trust_remote_code": True}},
    {"loss": {"options": {"_target_": "evil.f"}}},
], ids=["alias", "decay", "nested", "remote_code", "loss"])  # fmt: skip
def test_code_is_found_wherever_a_config_names_it(values: dict[str, Any], lwexp_here: RunHere, tmp_path: Path) -> None:
    written(tmp_path / "run", values)
    line = one_line(lwexp_here("run", "resume=run"))
    assert line.startswith("checkpoint.allow_targets=[]: the run's config would execute ")
    assert (
        lwexp_here("run", "resume=run", *shlex.split(line.partition("; allow it with ")[2]), "--cfg", "job").code == 0
    )


@pytest.mark.parametrize(("text", "why"), [
    ("lr: !!python/object/apply:pathlib.Path.touch [executed]", "cannot be read"),
    ("a: [", "cannot be read"),
    ("- 1", "is not the config of a run"),
    ("", "is not the config of a run"),
    ("a: &x [*x]", "cannot be read"),
    ("data: {name: '${oc.env:SECRET}'}", r"refers to something else: data.name=\$\{oc.env:SECRET\}"),
    ("hydra: {callbacks: {x: {_target_: evil.f}}}", "has a part 'hydra'"),
    ("defaults: [model: lstm]", "has a part 'defaults'"),
    ("model: {defaults: [lstm]}", "has a part 'defaults'"),
    ("model: resnet18", "a group is not a section"),
])  # fmt: skip
def test_a_file_that_is_no_plain_config_is_refused(
    text: str, why: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(text, encoding="utf-8")
    line = one_line(lwexp_here("run", "resume=run"))
    assert re.match(rf"resume={re.escape(str(tmp_path))}/run: its config.yaml .*{why}|.* {why}", line)
    assert "hunter2" not in line
    assert not (tmp_path / "executed").exists()
