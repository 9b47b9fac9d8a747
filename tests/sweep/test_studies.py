"""Studies: arms that search their base rate on validation, and what they have chosen on fresh seeds."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lwexp.cli.app import register
from lwexp.config.compose import settings
from lwexp.config.defaults import CONF
from lwexp.sweep.points import expand
from lwexp.sweep.study.plan import Setting, best_settings, refined
from lwexp.sweep.study.run import StudyRun
from lwexp.sweep.study.settings import check_study, words_of
from tests.experiment.resumed_runs import one_line
from tests.helpers.commands import RunHere

SMALL = [
    "model=lstm", "model.hidden_size=4", "max_steps=2", "tracking=none", "threads=1", "data.train_size=64",
    "hydra.sweep.dir=here", "sweep.isolate=false", "progress=false",
]  # fmt: skip
NOTHING_KEPT = ["sweep.keep_weights=false", "sweep.details=false"]
STUDY = """\
# @package _global_
hydra:
  sweeper:
    settings: policy=cosine
    lr: [1e-3, 1e-2, 1e-1]
    widen: 1
    seeds: [5, 6]
    primary: [layers]
    arms:
      uniform: decay=none
      layers: grouping=per_parameter mult=0.5,0.9
      ulmfit: recipe=ulmfit
"""


@pytest.fixture
def mine(tmp_path: Path) -> list[str]:
    (tmp_path / "mine" / "study").mkdir(parents=True)
    (tmp_path / "mine" / "study" / "ours.yaml").write_text(STUDY, encoding="utf-8")
    return ["--config-dir", "mine", "study=ours"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "study.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def overrides_of(folder: Path) -> list[list[str]]:
    return [point["overrides"] for point in json.loads((folder / "sweep.json").read_text())["points"]]


def test_a_study_searches_rates_and_repeats_the_best_with_fresh_seeds(
    lwexp_here: RunHere, mine: list[str], tmp_path: Path
) -> None:
    outcome = lwexp_here("study", *mine, *SMALL)
    assert outcome.code == 0, outcome.err
    assert "study ours: 3 arms" in outcome.out, "the report"
    rows = rows_of(tmp_path / "here")
    search = [row for row in rows if row["phase"] == "search"]
    finals = [row for row in rows if row["phase"] == "final"]
    assert {(row["arm"], row["role"]) for row in rows} == {
        ("uniform", "reference"), ("layers", "primary"), ("ulmfit", ""),
    }  # fmt: skip
    tried = {
        (arm, setting): {row["lr"] for row in search if (row["arm"], row["setting"]) == (arm, setting)}
        for arm, setting in [("uniform", ""), ("layers", "mult=0.5"), ("layers", "mult=0.9"), ("ulmfit", "")]
    }
    grid = {"0.001", "0.01", "0.1"}
    assert all(rates >= grid and len(rates - grid) <= 1 for key, rates in tried.items() if key[0] != "uniform")
    assert tried["uniform", ""] >= grid
    assert len(tried["uniform", ""]) >= 6, "uniform rates are tried as often as the arm with two settings"
    assert all(row["seed"] == "0" and row["status"] == "finished" for row in search)

    for arm in ("uniform", "layers", "ulmfit"):
        own = [row for row in finals if row["arm"] == arm]
        assert [row["seed"] for row in own] == ["5", "6"]
        chosen = {(row["setting"], row["lr"]) for row in own}
        assert len(chosen) == 1
        scores = {(row["setting"], row["lr"]): float(row["val"]) for row in search if row["arm"] == arm}
        assert scores[chosen.pop()] == max(scores.values())
    assert all(0 <= float(row["val"]) <= 1 and row["metric"] == "accuracy" for row in rows)
    assert all(row["test"] == "" for row in search), "the test data stay unseen until all is chosen"
    assert all(0 <= float(row["test"]) <= 1 for row in finals)

    points = overrides_of(tmp_path / "here")
    assert all(("policy=cosine" in point) == ("recipe=ulmfit" not in point) for point in points), "a recipe has its own"
    assert list((tmp_path / "here").glob("*/*.safetensors"))

    before = (tmp_path / "here" / "0" / "result.json").stat().st_mtime_ns
    again = lwexp_here("run", "sweep.resume=here")
    assert again.code == 0, again.err
    assert rows_of(tmp_path / "here") == rows
    assert (tmp_path / "here" / "0" / "result.json").stat().st_mtime_ns == before, "what is finished is not run again"


def test_every_setting_is_repeated_where_that_is_asked_for(
    lwexp_here: RunHere, mine: list[str], tmp_path: Path
) -> None:
    options = ["hydra.sweeper.finals=settings", "hydra.sweeper.lr=[1e-2,1e-1]", "hydra.sweeper.widen=0"]
    outcome = lwexp_here("study", *mine, *SMALL, *options, "hydra.sweeper.only=[layers]", *NOTHING_KEPT)
    assert outcome.code == 0, outcome.err
    assert {row["arm"] for row in rows_of(tmp_path / "here")} == {"uniform", "layers"}, "and the reference"
    finals = [row for row in rows_of(tmp_path / "here") if row["phase"] == "final" and row["arm"] == "layers"]
    assert [(row["setting"], row["seed"]) for row in finals] == [
        ("mult=0.5", "5"), ("mult=0.5", "6"), ("mult=0.9", "5"), ("mult=0.9", "6"),
    ]  # fmt: skip
    assert sorted(row["chosen"] for row in finals) == ["arm", "arm", "setting", "setting"]
    assert not list((tmp_path / "here").glob("*/*.safetensors"))
    assert not list((tmp_path / "here").glob("[0-9]*/*.png"))
    assert not list((tmp_path / "here").glob("[0-9]*/evaluation"))


def test_arms_are_added_and_omitted_when_a_study_is_resumed(
    lwexp_here: RunHere, mine: list[str], tmp_path: Path
) -> None:
    few = ["hydra.sweeper.lr=[1e-2]", "hydra.sweeper.seeds=[5]", "sweep.report=false", *NOTHING_KEPT]

    def arms_after(*command: str) -> set[str]:
        outcome = lwexp_here(*command)
        assert outcome.code == 0, outcome.err
        return {row["arm"] for row in rows_of(tmp_path / "here")}

    first = ["+hydra.sweeper.arms.more='mult=0.7'", "~hydra.sweeper.arms.ulmfit"]
    assert arms_after("study", *mine, *SMALL, *few, *first, "evaluate_test=true") == {"uniform", "layers", "more"}
    assert all(row["test"] for row in rows_of(tmp_path / "here")), "a command that asks for the test data has them"
    assert arms_after("run", "sweep.resume=here", "~hydra.sweeper.arms.more") == {"uniform", "layers"}
    line = one_line(lwexp_here("run", "sweep.resume=here", "--cfg", "job"))
    assert line.startswith("--cfg=sweep.resume: ")
    before = rows_of(tmp_path / "here")
    for change, names in {
        "epochs=3": ["epochs=3", "without it"],
        "max_steps=3": ["max_steps=3", "max_steps=2"],
        "study=quick": ["study=quick", "study=ours"],
    }.items():
        line = one_line(lwexp_here("run", "sweep.resume=here", change))
        assert all(name in line for name in names), line
    assert rows_of(tmp_path / "here") == before
    assert arms_after("run", "sweep.resume=here", "+hydra.sweeper.arms.last='mult=0.6'") == {
        "uniform",
        "layers",
        "last",
    }


def test_what_was_searched_is_in_the_table_before_the_finals(
    lwexp_here: RunHere, mine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    finals = StudyRun.finals
    monkeypatch.setattr(StudyRun, "finals", lambda run: (found.extend(rows_of(tmp_path / "here")), finals(run)))
    few = ["hydra.sweeper.lr=[1e-2]", "hydra.sweeper.seeds=[5]", "hydra.sweeper.only=[layers]", "sweep.report=false"]
    assert lwexp_here("study", *mine, *SMALL, *few).code == 0
    assert {(row["arm"], row["setting"]) for row in found} == {
        ("uniform", ""), ("layers", "mult=0.5"), ("layers", "mult=0.9"),
    }  # fmt: skip
    assert {row["phase"] for row in found} == {"search"}
    (tmp_path / "here" / "study.csv").unlink()  # as after kill -9 in the search
    outcome = lwexp_here("report", "here")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "study=here" in outcome.err
    assert "sweep.resume=here" in outcome.err


def test_a_study_in_mlflow_is_reported_as_a_study(lwexp_here: RunHere, mine: list[str], tmp_path: Path) -> None:
    few = ["hydra.sweeper.lr=[1e-2]", "hydra.sweeper.seeds=[5]", "hydra.sweeper.only=[layers]", "sweep.report=false"]
    small = [option for option in SMALL if option != "tracking=none"]
    assert lwexp_here("study", *mine, *small, *few).code == 0
    outcome = lwexp_here("report")
    assert outcome.code == 0, outcome.err
    assert "study ours: 2 arms" in outcome.out
    assert (tmp_path / "outputs" / "reports" / "study_here" / "study_report.md").is_file()
    assert "study ours: 2 arms" in lwexp_here("report", "--reference", "layers").out
    (tmp_path / "here" / "study.csv").unlink()
    outcome = lwexp_here("report")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "has no study.csv" in outcome.err


def test_a_run_that_fails_is_the_worst_of_its_search_and_lost_from_the_finals(
    lwexp_here: RunHere, mine: list[str], tmp_path: Path
) -> None:
    (tmp_path / "fails.py").write_text(
        "import lwexp\n\n\nclass Fails(lwexp.Callback):\n"
        "    def __init__(self, above):\n        self.above = above\n"
        "    def step_end(self, result):\n"
        "        if max(result.rates) > self.above:\n            raise RuntimeError('too fast')\n",
        encoding="utf-8",
    )
    callback = "callbacks={fails: {_target_: fails.Fails, above: 0.05}}"
    outcome = lwexp_here("study", *mine, *SMALL, callback, "hydra.sweeper.widen=0", "~hydra.sweeper.arms.ulmfit")
    assert outcome.code == 0, outcome.err
    rows = rows_of(tmp_path / "here")
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed
    assert all(row["phase"] == "search" and float(row["lr"]) > 0.05 and row["val"] == "" for row in failed)


@pytest.mark.parametrize(("options", "names"), [
    (["hydra.sweeper.reference=unifrom"], ["hydra.sweeper.reference=unifrom", "uniform"]),
    (["hydra.sweeper.primary=[layer]"], ["hydra.sweeper.primary=layer", "layers"]),
    (["hydra.sweeper.only=[layer]"], ["hydra.sweeper.only=layer", "layers"]),
    (["hydra.sweeper.lr=[1e-2,1e-3]"], ["hydra.sweeper.lr", "rise"]),
    (["hydra.sweeper.seeds=[]"], ["hydra.sweeper.seeds"]),
    (["+hydra.sweeper.arm={}"], ["hydra.sweeper.arm", "arms"]),
    (["hydra.sweeper.seed=[1]"], ["hydra.sweeper.seed=[1]", "did you mean hydra.sweeper.seeds"]),
    (["hydra.sweeper.arms.layer='mult=0.5'"], ["no such arm", "+hydra.sweeper.arms.layer=…"]),
    (["+hydra.sweeper.arms.bad='mult=two'"], ["hydra.sweeper.arms.bad", "mult"]),
    (["+hydra.sweeper.arms.bad='mutl=0.5'"], ["hydra.sweeper.arms.bad", "mutl", "mult"]),
    (["+hydra.sweeper.arms.bad='lr=0.5'"], ["hydra.sweeper.arms.bad", "lr", "study"]),
    (["+hydra.sweeper.arms.bad='recipe=ulmfitt'"], ["hydra.sweeper.arms.bad", "ulmfit"]),
    (["lr=0.5"], ["lr=0.5", "hydra.sweeper.lr"]),
    (["mult=0.7"], ["mult=0.7", "arm layers", "hydra.sweeper.arms.layers"]),
    (["decay=cosine"], ["decay=cosine", "arm uniform", "hydra.sweeper.arms.uniform"]),
    (["hydra.sweeper.settings='policy=cosine,constant'"], ["hydra.sweeper.settings", "one value"]),
    (["hydra.sweeper.settings='lr=0.5'"], ["hydra.sweeper.settings=lr=0.5", "study"]),
    (["hydra.sweeper.seeds=[3,1,3]"], ["hydra.sweeper.seeds=3", "twice"]),
    (["hydra.sweeper.search_seeds=[0,0]"], ["hydra.sweeper.search_seeds=0", "twice"]),
    (["hydra.sweeper.settings='polcy=cosine'"], ["hydra.sweeper.settings=polcy=cosine", "policy"]),
    (["+hydra.sweeper.arms.bad='mult={1'"], ["hydra.sweeper.arms.bad=mult={1", "pair"]),
    (["+hydra.sweeper.arms.bad='mult=range(0.5,1,0)'"], ["hydra.sweeper.arms.bad=mult=range", "step"]),
    (["+hydra.sweeper.arms.bad='mult=glob(*)'"], ["hydra.sweeper.arms.bad=mult=glob", "no value"]),
    (["+hydra.sweeper.arms.bad='mult=interval(0.5,1)'"], ["mult=interval(0.5,1): has no steps"]),
    (["epochs=1,2"], ["epochs=1,2", "several values", "arms"]),
    (["epochs=many"], ["epochs=many: should be"]),
    (["seed=1,2"], ["seed", "hydra.sweeper.seeds"]),
    (["study=ourz"], ["study", "ours"]),
])  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_trained(
    lwexp_here: RunHere, mine: list[str], tmp_path: Path, options: list[str], names: list[str]
) -> None:
    line = one_line(lwexp_here("study", *mine, *SMALL, *options))
    assert all(name in line for name in names), line
    assert not (tmp_path / "here" / "sweep.json").exists()


def test_a_study_is_many_runs(lwexp_here: RunHere, mine: list[str]) -> None:
    assert "python -m lwexp.study study=ours" in one_line(lwexp_here("run", *mine, "tracking=none"))
    assert "python -m lwexp.study study=ours" in one_line(lwexp_here("preview", "-m", *mine, "tracking=none"))
    assert "quick" in one_line(lwexp_here("study", *SMALL))


@given(st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=6, unique=True), st.integers(1, 40))
def test_a_refined_grid_has_its_own_rates_and_enough(rates: list[float], trials: int) -> None:
    grid = sorted({float(f"{rate:.3g}") for rate in rates})
    found = [float(rate) for rate in refined(grid, trials)]
    assert set(grid) <= set(found)
    assert found == sorted(found)
    assert len(grid) == 1 or len(found) >= min(trials, len(grid))
    assert found[0] == grid[0]
    assert found[-1] == grid[-1]


def test_rates_that_were_given_keep_all_their_digits() -> None:
    assert refined([0.0012345, 0.0012346, 0.1], 3) == ["0.0012345", "0.0012346", "0.1"]


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=3, max_size=7))
def test_the_best_rate_is_the_middle_of_the_best_and_only_an_end_is_widened(scores: list[int | None]) -> None:
    grid = [10.0**k for k in range(-len(scores), 0)]
    setting = Setting("arm", "", (), [f"{rate:.3g}" for rate in grid])
    setting.scores = {rate: None if s is None else float(s) for rate, s in zip(setting.rates, scores, strict=True)}
    if all(score is None for score in scores):
        assert setting.best is None
        assert setting.score == -math.inf
        assert best_settings([setting]) == {}
        assert setting.wider(grid, 3) is None
        return
    assert setting.best is not None
    assert setting.scores[setting.best] == max(score for score in scores if score is not None)
    tied = [rate for rate, score in setting.scores.items() if score == setting.score]
    assert tied.index(setting.best) == (len(tied) - 1) // 2
    wider = setting.wider(grid, 1)
    if setting.best == setting.rates[-1]:
        assert wider is not None
        assert math.isclose(float(wider), 10 * grid[-1], rel_tol=1e-2)
    elif setting.best == setting.rates[0]:
        assert wider is not None
        assert math.isclose(float(wider), grid[0] / 10, rel_tol=1e-2)
    else:
        assert wider is None
    assert setting.wider(grid, 0) is None


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "study").glob("*.yaml")))
def test_every_arm_of_every_study_is_a_run(name: str) -> None:
    register("runs")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        task = [f"study={name}", "hydra/sweeper=study"]
        config = compose("config", task)
        task += [] if config.data.name == "digits" else ["data.path=here"]
        task += ["weights.path=here"] if config.weights.name == "checkpoint" else []
        options = OmegaConf.to_container(compose("config", task, return_hydra_config=True).hydra.sweeper)
        assert isinstance(options, dict)
        study = check_study({str(key): value for key, value in options.items() if key != "_target_"})
        for arm, words in study.arms.items():
            jobs = expand(OverridesParser.create().parse_overrides(words_of(words, arm)))
            for job in (jobs[0], jobs[-1]):
                settings(compose("config", [*task, *job, "lr=1e-3"], return_hydra_config=True))
