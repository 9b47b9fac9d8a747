"""A search: its space, its trials from batch to batch, and that a killed one resumes as if nothing had happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")

from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from lwexp.errors import ConfigError, RunError  # noqa: E402
from lwexp.experiment.manifest import Point  # noqa: E402
from lwexp.sweep.outcome import Outcome  # noqa: E402
from lwexp.sweep.search.loop import Arm, Search  # noqa: E402
from lwexp.sweep.search.space import Space, parse_space  # noqa: E402
from lwexp.sweep.search.study import Study, make_pruner, make_sampler, open_storage  # noqa: E402

# ------------------------------------------------------------------------------------------------------------ the space


def space_of(*overrides: str) -> Space:
    return parse_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(("override", "distribution"), [
    ("x=interval(0,2)", FloatDistribution(0.0, 2.0)),
    ("x=tag(log,interval(0.1,2))", FloatDistribution(0.1, 2.0, log=True)),
    ("x=int(interval(1,9))", IntDistribution(1, 9)),
    ("x=tag(log,int(interval(1,9)))", IntDistribution(1, 9, log=True)),
    ("mult=interval(0.7,1.0)", FloatDistribution(0.7, 1.0, log=True)),
    ("lr=interval(1e-4,1e-1)", FloatDistribution(1e-4, 1e-1, log=True)),
    ("lr=tag(linear,interval(0,1e-1))", FloatDistribution(0.0, 0.1)),
    ("x=range(1,8,3)", IntDistribution(1, 7, step=3)),
    ("x=range(8,1,-3)", IntDistribution(2, 8, step=3)),
    ("x=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
    ("x=a,b", CategoricalDistribution(["a", "b"])),
    ("x=0.5,null,'a b'", CategoricalDistribution(["0.5", "null", "'a b'"])),
    ("mult=0.8,0.9", CategoricalDistribution(["0.8", "0.9"])),
])  # fmt: skip
def test_hydras_sweep_syntax_is_the_search_space(override: str, distribution: Any) -> None:
    key = override.partition("=")[0]
    assert space_of(override) == Space({key: distribution}, ())


def test_the_last_override_of_a_key_wins_and_constants_stay() -> None:
    typed = ["model=lstm", "lr=0.01", "+policy.x=interval(0,1)", "seed=0,1"]
    space = space_of("mult=interval(0.7,1.0)", "lr=interval(1e-4,1e-1)", *typed)
    assert space.searched.keys() == {"mult", "+policy.x"}
    assert set(space.constants) == {"model=lstm", "lr=0.01"}
    assert space.seeds == (0, 1)


@pytest.mark.parametrize(("override", "line"), [
    ("lr=interval(0,1)", r"lr=interval\(0.0,1.0\): a log scale starts above 0; use tag\(linear,.*\) for a linear one"),
    ("x=interval(2,1)", r"x=interval\(2.0,1.0\): goes from a number to a larger one"),
    ("x=tag(lgo,interval(1,2))", "x=lgo: no such tag; did you mean log"),
    ("x=range(3,3)", r"x=range\(3,3\): holds no value"),
    ("x=tag(log,range(1,9))", r"x=.*: a range has equal steps; a log scale is for interval\(…\)"),
    ("seed=interval(0,3)", r"seed=interval\(0,3\): a search takes a list of seeds: seed=0,1,2"),
    ("seed=a,b", "seed=a,b: a search takes a list of seeds: seed=0,1,2"),
])  # fmt: skip
def test_an_invalid_space_is_one_line(override: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        space_of(override)


@pytest.mark.parametrize(("interval", "value", "text"), [
    ("interval(0.7,1.0)", 0.87654321, "0.8765"),
    ("interval(1000,1001)", 1000.123456, "1000.123"),
    ("tag(log,interval(0.9999,1.0))", 0.99994321, "0.9999432"),
    ("tag(log,interval(1e-4,1e-1))", 0.00012345678, "0.0001235"),
    ("range(0,1,0.1)", 0.30000000000000004, "0.3"),
])  # fmt: skip
def test_drawn_numbers_have_few_digits_for_their_interval(interval: str, value: float, text: str) -> None:
    space = space_of(f"x={interval}")
    assert space.shown({"x": value}) == {"x": text}


@pytest.mark.parametrize(("call", "line"), [
    (lambda: make_sampler("tpee", {}, 0), "sampler.name=tpee: no such sampler in Optuna; did you mean tpe"),
    (lambda: make_sampler("tpe", {"gama": 1}, 0), r"sampler\.options\.gama=1: TPESampler has no such.*mean gamma"),
    (lambda: make_pruner("medain", {}), "pruner.name=medain: no such pruner in Optuna; did you mean median"),
    (lambda: make_pruner("median", {"n_startup_trials": -1}), r"pruner\.options=.*MedianPruner: .*negative"),
])  # fmt: skip
def test_a_mistaken_sampler_or_pruner_is_one_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        call()


# ------------------------------------------------------------------------------------------------------------- the loop

SPACE = space_of("model=lstm", "mult=interval(0.7,1.0)", "lr=interval(1e-4,1e-1)")
KEYS = ("mult", "lr", "seed")


class Killed(BaseException):
    """Simulates the end of the process."""


def accuracy(point: Point) -> float:
    """Best near mult=0.9 and lr=0.01."""
    mult, lr = float(point.values.get("mult", 1.0)), float(point.values["lr"])
    return 0.9 - (mult - 0.9) ** 2 - 0.01 * (math.log10(lr) + 2) ** 2 + 1e-4 * int(point.values["seed"])


class Runs:
    """Runs points as a sweep does: what has finished is not run again; `run` simulates a training."""

    def __init__(self, run: Callable[[Point], Outcome] = lambda point: Outcome("FINISHED", accuracy(point))) -> None:
        self.run, self.batches, self.done = run, [], {}
        self.budget = math.inf  # of runs, until the process is killed

    def __call__(self, points: Sequence[Point]) -> list[Outcome]:
        self.batches.append([point.number for point in points])
        for point in points:
            if point not in self.done:
                if len(self.done) >= self.budget:
                    raise Killed
                self.done[point] = self.run(point)
        return [self.done[point] for point in points]


def study(folder: Path, name: str = "search", pruner: str | None = None, **options: Any) -> Study:
    return Study(
        open_storage(None, folder),
        name,
        direction="maximize",
        sampler=make_sampler("tpe", {"n_startup_trials": 4}, 0),
        pruner=(pruner, options),
        owner=None,
    )


def search(folder: Path, runs: Runs, *, trials: int = 8, seeds: Sequence[int] = (0,), batch: int = 1) -> Study:
    made = study(folder)
    Search([Arm(made, SPACE, trials, KEYS)], seeds=seeds, batch=batch, first_number=0, run=runs).run()
    return made


def test_trials_are_points_and_the_best_is_found(tmp_path: Path) -> None:
    runs = Runs()
    made = search(tmp_path, runs, trials=30)
    assert [point.number for point in runs.done] == list(range(30))
    point = next(iter(runs.done))
    assert point.overrides == (
        "model=lstm", f"mult={point.values['mult']}", f"lr={point.values['lr']}", "seed=0",
        "sweep.search.study='search'", "sweep.search.trial=0",
    )  # fmt: skip
    assert point.tags == {"lwexp.phase": "search", "lwexp.study": "search", "lwexp.trial": "0"}
    (best, value), second, _ = made.best(3)
    assert value == max(outcome.value for outcome in runs.done.values()) > second[1]
    assert value > 0.895
    assert 0.7 <= float(best.values["mult"]) <= 1.0
    assert made.counts() == {"complete": 30, "pruned": 0, "failed": 0}
    assert made.importances().keys() == {"mult", "lr"}


def test_batches_are_as_wide_as_asked_and_the_last_is_the_rest(tmp_path: Path) -> None:
    runs = Runs()
    search(tmp_path, runs, trials=8, batch=3)
    assert runs.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_trials_of_a_batch_differ(tmp_path: Path) -> None:
    runs = Runs()
    search(tmp_path, runs, trials=24, batch=8)
    assert len({tuple(point.values.values()) for point in runs.done}) == 24


def test_several_seeds_are_one_trial_with_their_mean(tmp_path: Path) -> None:
    runs = Runs()
    made = search(tmp_path, runs, trials=2, seeds=(3, 5), batch=2)
    assert runs.batches == [[0, 2], [1, 3]]
    assert [point.values["seed"] for point in runs.done] == ["3", "3", "5", "5"]
    assert ["sweep.search" in " ".join(point.overrides) for point in runs.done] == [True, True, False, False]
    (best, value), *_ = made.best(1)
    own = [accuracy(point) for point in runs.done if point.values["mult"] == best.values["mult"]]
    assert value == pytest.approx(sum(own) / 2)


def test_failed_and_pruned_trials_are_reported_and_do_not_stop_the_search(tmp_path: Path) -> None:
    def run(point: Point) -> Outcome:
        if point.number == 0:
            return Outcome("FAILED", reason="the loss is nan at optimizer step 3")
        if point.number == 2:
            return Outcome("KILLED", reason="killed for memory")
        return Outcome("FINISHED", 0.5, pruned="at epoch 2" if point.number == 4 else None)

    runs = Runs(run)
    made = search(tmp_path, runs, trials=6, seeds=(0, 1), batch=2)
    # jobs 0, 2, 4 are the first seeds of trials 0, 1, 2: their second seeds are not run
    assert sorted(point.number for point in runs.done) == [0, 2, 4, 6, 7, 8, 9, 10, 11]
    assert made.counts() == {"complete": 3, "pruned": 1, "failed": 2}
    assert made.failures() == {0: "the loss is nan at optimizer step 3", 1: "killed for memory"}


@pytest.mark.parametrize(("batch", "seeds"), [(1, (0,)), (3, (0,)), (2, (0, 1))])
def test_a_search_killed_anywhere_resumes_as_if_undisturbed(batch: int, seeds: tuple[int, ...], tmp_path: Path) -> None:
    undisturbed, disturbed = Runs(), Runs()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before = search(tmp_path / "a", undisturbed, trials=7, seeds=seeds, batch=batch)
    for budget in range(len(undisturbed.done)):
        disturbed.budget = budget
        with pytest.raises(Killed):
            search(tmp_path / "b", disturbed, trials=7, seeds=seeds, batch=batch)
    disturbed.budget = math.inf
    after = search(tmp_path / "b", disturbed, trials=7, seeds=seeds, batch=batch)
    assert disturbed.done == undisturbed.done
    assert after.best(9) == before.best(9)
    assert after.counts() == before.counts() == {"complete": 7, "pruned": 0, "failed": 0}


def test_more_trials_continue_the_existing_ones(tmp_path: Path) -> None:
    runs = Runs()
    search(tmp_path, runs, trials=3)
    made = search(tmp_path, runs, trials=5)
    assert [point.number for point in runs.done] == list(range(5))
    assert made.counts()["complete"] == 5
    search(tmp_path, runs, trials=4)
    assert len(runs.done) == 5


def test_a_trial_asked_for_but_not_planned_does_not_count(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    made = study(tmp_path)
    optuna.load_study(study_name="search", storage=storage).ask(dict(SPACE.searched))
    runs = Runs()
    Search([Arm(made, SPACE, 3, KEYS)], seeds=[0], batch=1, first_number=0, run=runs).run()
    assert made.counts() == {"complete": 3, "pruned": 0, "failed": 0}
    assert len(runs.done) == 3


def test_a_study_of_another_sweep_or_direction_is_refused(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/studies.db"
    options: dict[str, Any] = {"sampler": make_sampler("random", {}, 0), "pruner": (None, {})}
    Study(open_storage(address, tmp_path), "mine", direction="maximize", owner="one", **options)
    Study(open_storage(address, tmp_path), "mine", direction="maximize", owner="one", **options)
    with pytest.raises(ConfigError, match="study_name=mine: is the study of the sweep one, which sweep"):
        Study(open_storage(address, tmp_path), "mine", direction="maximize", owner="two", **options)
    with pytest.raises(ConfigError, match="direction=minimize: the study was created with the other one"):
        Study(open_storage(address, tmp_path), "mine", direction="minimize", owner="one", **options)


def test_a_storage_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the study in .*study\.journal cannot be opened: .*No such file"):
        open_storage(None, tmp_path / "missing")
    with pytest.raises(RunError, match="the study in nosuch://x cannot be opened"):
        open_storage("nosuch://x", tmp_path)
