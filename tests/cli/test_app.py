"""The command line itself: help, composed config, completion, preview, and what is imported when."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lwexp import make_plan
from lwexp.experiment import instantiate
from lwexp.experiment.instantiate import Experiment
from lwexp.models.lstm import LSTMClassifier
from lwexp.plots import process
from tests.experiment.resumed_runs import one_line
from tests.helpers.commands import ROOT, RunHere

HEAVY = (
    "torch", "timm", "torchvision", "transformers", "mlflow", "sklearn", "numpy", "PIL", "matplotlib", "pydantic",
)  # fmt: skip
SMALL = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256"]


def python(code: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_", "COMP_"))}
    environment |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd / "cache"), **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- help, --cfg, imports


def test_help_names_every_group_every_choice_every_option_and_gives_examples(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    conf = ROOT / "conf"
    for group in {path.parent for path in conf.rglob("*.yaml")} - {conf}:
        (line,) = re.findall(rf"^{group.relative_to(conf)}: (.*)$", outcome.out, flags=re.MULTILINE)
        ours = {path.stem for path in group.glob("*.yaml")}
        assert line.split(", ") == sorted(ours | ({"basic"} if group.name == "launcher" else set()))
    for key in OmegaConf.load(conf / "config.yaml"):
        assert key in ("defaults", "hydra") or re.search(rf"^{key}:", outcome.out, flags=re.MULTILINE), key
    for example in ("python -m lwexp.run -m mult=", "python -m lwexp.preview", "python -m lwexp.ui", "--cfg job"):
        assert example in outcome.out
    assert "hydra:" not in outcome.out


def test_examples_of_help_compose(lwexp_here: RunHere, tmp_path: Path) -> None:
    text = lwexp_here("run", "--help").out
    commands = re.findall(r"^ +python -m lwexp\.(run|preview) (.*?)(?:  .*)?$", text, flags=re.MULTILINE)
    assert len(commands) >= 5
    for name, options in commands:
        arguments = [option.strip("'") for option in re.findall(r"'[^']*'|\S+", options)]
        if arguments[0] == "-m":
            arguments = [option.partition(",")[0] for option in arguments[1:]]
        outcome = lwexp_here(name, *arguments, "--cfg", "job")
        assert outcome.code == 0, outcome.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("command", ["run", "preview"])
def test_cfg_job_is_yaml_that_composes_again(command: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    options = [
        "model=vit_tiny_patch16_224", "optimizer=lion", "policy=cosine", "policy.warmup_steps=5",
        "lr_overrides={head: 0.01}", "lr_events=[{step: 3, group: head, lr: 0.1}]", "freeze=['patch_embed.*']",
    ]  # fmt: skip
    outcome = lwexp_here(command, *options, "--cfg", "job")
    assert (outcome.code, outcome.err) == (0, "")
    first = OmegaConf.create(outcome.out)
    assert first.model == {"source": "timm", "name": "vit_tiny_patch16_224"}
    assert first.lr_overrides == {"head": 0.01}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "again.yaml").write_text(outcome.out, encoding="utf-8")
    again = lwexp_here(command, "--config-dir", "mine", "--config-name", "again", "--cfg", "job")
    assert again.code == 0, again.err
    assert OmegaConf.create(again.out) == first
    assert not (tmp_path / "outputs").exists()


def test_ones_own_config_is_found_in_config_dir(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "mine" / "decay").mkdir(parents=True)
    (tmp_path / "mine" / "decay" / "steep.yaml").write_text("name: polynomial\npower: 4.0\n", encoding="utf-8")
    outcome = lwexp_here("preview", *SMALL, "decay=steep", "grouping=per_parameter", "--config-dir", "mine")
    assert outcome.code == 0, outcome.err
    plan = make_plan(
        LSTMClassifier(in_chans=1, img_size=8, num_classes=10, hidden_size=8),
        grouping="per_parameter", decay="polynomial", decay_options={"power": 4.0},
    )  # fmt: skip
    assert [line for line in str(plan).splitlines() if " lstm." in line] == [
        line for line in outcome.out.splitlines() if " lstm." in line
    ]


def test_options_may_stand_on_both_sides_of_a_flag(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", "model=lstm", "--cfg", "job", "mult=0.5")
    assert (outcome.code, outcome.err) == (0, "")
    composed = OmegaConf.create(outcome.out)
    assert (composed.model.source, composed.mult) == ("lstm", 0.5)


ASK = f"""
import runpy, sys
sys.argv[0] = "lwexp-run"
try:
    import lwexp.run
    lwexp.run.main()
finally:
    print("IMPORTED", *[name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize(("arguments", "error"), [
    (["--help"], ""),
    (["--cfg", "job", "model=vit_tiny_patch16_224", "optimizer=lamb"], ""),
    (["mutl=0.9"], "error: mutl=0.9: unknown option; did you mean mult?\n"),
    (["grouping=top_modle"], "error: grouping=top_modle: no such choice; did you mean top_module?\n"),
], ids=["help", "cfg", "mistyped", "mistyped-choice"])  # fmt: skip
def test_help_cfg_and_a_mistyped_option_answer_without_heavy_imports(
    arguments: list[str], error: str, tmp_path: Path
) -> None:
    done = python(ASK, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2 if error else 0, error)
    assert done.stdout.splitlines()[-1] == "IMPORTED"


def test_help_copies_no_registered_config(lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: ConfigStore, memo: object) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(ConfigStore, "__deepcopy__", refuse, raising=False)
    outcome = lwexp_here("run", "--help")
    assert outcome.code == 0, outcome.err


MAKE_A_PLAN = """
import sys
def loaded(*names):
    return [name for name in names if name in sys.modules]
import lwexp
print("lwexp", loaded("torch", "hydra", "omegaconf", "mlflow", "timm", "pydantic", "torchvision"))
import torch
model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
plan = lwexp.make_plan(model, lr=0.1, mult=0.5)
print(plan)
optimizer = plan.optimizer("adamw")
scheduler = plan.scheduler(optimizer, "cosine", steps=9)
plan.lr_table("onecycle", steps=9)
print("make_plan", loaded("hydra", "omegaconf", "mlflow", "timm", "pydantic", "torchvision", "matplotlib", "sklearn"))
"""


def test_a_plan_is_made_and_scheduled_with_torch_alone(tmp_path: Path) -> None:
    """What is loaded in fact, also by packages of others; `tests/test_layers.py` checks each import statement."""
    done = python(MAKE_A_PLAN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert dict(re.findall(r"^(\w+) (\[.*\])$", done.stdout, flags=re.MULTILINE)) == {"lwexp": "[]", "make_plan": "[]"}


# ------------------------------------------------------------------------------------------------------- tab completion


def completions(line: str, cwd: Path) -> list[str]:
    """What a shell gets for `line` when the Tab key is pressed at its end."""
    code = "import sys; sys.argv[0] = 'lwexp-run'; from lwexp.run import main; main()"
    done = python(code, "-sc", "query=bash", cwd=cwd, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_tab_completes_timms_names_and_remembers_them(tmp_path: Path) -> None:
    found = completions("lwexp-run model=vit_ti", tmp_path)
    assert "model=vit_tiny_patch16_224" in found
    assert all(name.startswith("model=vit_ti") for name in found)
    (kept,) = (tmp_path / "cache" / "lwexp").iterdir()
    assert kept.name.startswith("timm-")
    assert "resnet18" in kept.read_text().split()
    kept.write_text("vit_tinker")
    assert completions("lwexp-run model=vit_ti", tmp_path) == ["model=vit_tinker"], "read from the cache, without timm"


@pytest.mark.parametrize(("line", "expected"), [
    ("lwexp-run decay=", {f"decay={name}" for name in ("linear", "arithmetic", "none", "explicit")}),
    ("lwexp-run policy=w", {"policy=warmup_exponential", "policy=wsd"}),
    ("lwexp-run lr_ov", {"lr_overrides."}),
    ("lwexp-run decay=la", {"decay=layer_decay"}),
    ("lwexp-run decay.st", {"decay.stem_lr="}),
])  # fmt: skip
def test_tab_completes_choices_and_keys(
    line: str, expected: set[str], lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    outcome = lwexp_here("run", "-sc", "query=bash")
    assert outcome.code == 0, outcome.err
    found = set(outcome.out.split())
    prefix = line.rpartition(" ")[2]
    assert all(name.startswith(prefix) for name in found)
    assert expected <= found, found


def test_completion_is_installed_for_the_console_script(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", "-sc", "install=bash")
    assert outcome.code == 0, outcome.err
    assert "COMP_LINE" in outcome.out
    assert re.search(r"complete .*lwexp-run", outcome.out)


# -------------------------------------------------------------------------------------------------------------- preview


def test_preview_prints_the_table_draws_it_and_writes_it_where_asked(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("preview", *SMALL, "mult=0.5", "preview.csv=tables/plan.csv", "preview.json=plan.json")
    assert outcome.code == 0, outcome.err
    plan = make_plan(LSTMClassifier(in_chans=1, img_size=8, num_classes=10, hidden_size=8), mult=0.5)
    table = str(plan).split("\n\n")[1]
    assert table in outcome.out
    assert f"plan {plan.hash}" in outcome.out
    assert "note: group 1 (lstm) holds 93% of the trainable weights" in outcome.out
    assert (tmp_path / "tables" / "plan.csv").read_text() == plan.to_csv()
    rows = list(csv.DictReader((tmp_path / "tables" / "plan.csv").read_text().splitlines()))
    assert [(row["name"], float(row["lr"])) for row in rows] == [("head", 1e-3), ("lstm", 5e-4)]
    written = json.loads((tmp_path / "plan.json").read_text())
    assert [group["lr"] for group in written["groups"]] == [1e-3, 5e-4]
    (folder,) = (tmp_path / "outputs" / "previews").iterdir()
    drawn = {path.name for path in folder.iterdir()} - {".hydra", "lwexp.log"}
    assert drawn == {"rates_heatmap.png", "rates_by_depth.png", "rates_by_step.png", "rates.html"}
    assert not list(tmp_path.rglob("mlflow.db"))


def test_preview_of_a_billion_weights_allocates_none(lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Experiment] = []
    make = instantiate.make_experiment
    monkeypatch.setattr(instantiate, "make_experiment", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = lwexp_here("preview", "model=vit_giant_patch14_224", "data.image_size=28", "grouping=depth_index")
    assert outcome.code == 0, outcome.err
    tensors = [*made[0].built.module.parameters(), *made[0].built.module.buffers()]
    assert sum(tensor.numel() for tensor in tensors) > 1e9
    assert all(tensor.is_meta for tensor in tensors)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 1e9, "its weights take four times as many bytes"
    assert "42 groups" in outcome.out


def test_preview_of_a_metric_driven_policy_says_that_it_has_no_curves(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("preview", *SMALL, "policy=plateau")
    assert outcome.code == 0, outcome.err
    assert "not known before training" in outcome.out
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(("options", "key"), [
    (["mult=-1"], "mult"),
    (["decay=linaer"], "decay"),
    (["optimizer=addam"], "optimizer"),
    (["optimizer.betas=[0.9,2]"], "optimizer.betas"),
    (["freeze=[lstn]"], "freeze"),
    (["freeze=['*']"], "freeze"),
    (["lr_events=[{step: 1, group: fc, lr: 0.1}]"], "lr_events.group"),
    (["policy.warmup_steps=100"], "policy.warmup_steps"),
    (["batch_size=2000"], "batch_size"),
    (["loss.name=CrossEntropy"], "loss.name"),
    (["tracking.uri=htp://server"], "tracking.uri"),
    (["weights=checkpoint", "weights.path=w.pt"], "weights.path"),
    (["preview.csv=file/plan.csv"], "preview.csv"),
])  # fmt: skip
def test_preview_refuses_what_run_refuses(options: list[str], key: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    outcome = lwexp_here("preview", *SMALL, *options)
    assert outcome.code == 2
    assert re.fullmatch(rf"error: {re.escape(key)}=.*\n", outcome.err), outcome.err


def test_the_config_of_a_study_is_shown_and_that_of_a_sweep_refused(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("study", "study=digits_vit", "--cfg", "job")
    assert (outcome.code, outcome.err) == (0, "")
    assert "embed_dim: 64" in outcome.out
    assert "train_size: 50" in outcome.out
    line = one_line(lwexp_here("run", "-m", "mult=1,2", "--cfg", "job"))
    assert line.startswith("--cfg=-m: ")


@pytest.mark.parametrize(("command", "options", "line"), [
    ("run", ["~polcy"], "~polcy: there is nothing to omit; did you mean policy"),
    ("study", ["study=quick", "~hydra.sweeper.arms.dept"], "~hydra.sweeper.arms.dept: the study has no such arm"),
    ("study", ["study=quick", "~hydra.sweeper.sedes"], "nothing to omit; did you mean hydra.sweeper.seeds"),
])  # fmt: skip
def test_what_is_omitted_must_be_there(lwexp_here: RunHere, command: str, options: list[str], line: str) -> None:
    assert line in one_line(lwexp_here(command, *options))
