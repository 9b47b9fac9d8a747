"""`lwexp.report` on several sweeps, and on runs of any origin that ids, folders and a filter name."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lwexp.report.measured import measured
from lwexp.report.points import points_of
from lwexp.tracking.reader import StoredRun
from tests.helpers.report_sweeps import BETTER, UNIFORM, Report, make_sweep, seeds

START = 1_600_000_000_000


def make_runs(
    client: MlflowClient,
    values: Sequence[float],
    uniform: bool = False,
    metric: str = "accuracy",
    tags: Mapping[str, str] | None = None,
    seeded: bool = True,
    prefixes: tuple[str, str] = ("val/", "test/"),
    start: int = START,
    **params: str,
) -> list[str]:
    """Single runs, one for each seed 0, 1, …, as `lwexp.run` leaves them; `tags` as those of another recorder."""
    found = []
    for seed, value in enumerate(values):
        own = {"lwexp.overrides": "x"} if tags is None else dict(tags)
        own |= {"lwexp.lr.uniform": str(uniform).lower(), "lwexp.lr.head": "0.01", "lwexp.lr.stem": "0.01"}
        run = client.create_run("1", start + len(found), own, f"{params} {seed}").info.run_id
        for key, setting in {**params, **({"seed": str(seed)} if seeded else {})}.items():
            client.log_param(run, key.replace("__", "."), setting)
        for step in (1, 2):
            client.log_metric(run, f"{prefixes[0]}{metric}", value - 0.2 + 0.1 * step, step=step)
        client.log_metric(run, f"{prefixes[1]}{metric}", value, step=2)
        client.set_terminated(run)
        found.append(run)
    return found


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "report.csv").open(encoding="utf-8", newline="") as file:
        return {row["setting"]: row for row in csv.DictReader(file)}


def first_sentence(text: str) -> str:
    return text.splitlines()[2]


def test_single_runs_are_grouped_by_what_differs_and_compared_seed_by_seed(
    quick: Report,
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    common = {"epochs": "3", "policy__name": "cosine"}
    uniform = make_runs(client, UNIFORM, uniform=True, decay__name="none", mult="1.0", **common)
    linear = make_runs(client, BETTER, decay__name="linear", mult="0.9", **common)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "delivery.json").write_text(json.dumps({"run_id": linear[0]}), encoding="utf-8")
    outcome = quick(*uniform, str(folder), *(run[:12] for run in linear[1:]), "-o", "here")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("12 runs: 12 of 12 runs compared")
    assert first_sentence(outcome.out).startswith(
        "mult=0.9 is better than uniform rates by 1.83 points in test accuracy"
    )
    assert "attached" not in outcome.out
    assert list(rows(tmp_path / "here")) == ["uniform", "mult=0.9"]
    outcome = quick(*uniform, *linear)
    (made,) = (tmp_path / "outputs" / "reports").iterdir()
    assert f"outputs/reports/{made.name}/report.html" in outcome.out


def test_a_filter_of_mlflow_chooses_among_the_runs_of_the_experiment(quick: Report, client: MlflowClient) -> None:
    make_runs(client, UNIFORM, uniform=True, decay__name="linear", mult="1.0")
    make_runs(client, BETTER, decay__name="linear", mult="0.9")
    make_runs(client, BETTER, decay__name="cosine", mult="1.0")
    sweep = make_sweep(client, seeds([0.1], mult="0.7"))  # a sweep's run has the params of its best one
    client.log_param(sweep, "decay.name", "linear")
    outcome = quick("--filter", "params.decay.name = 'linear'", "--experiment", "lwexp")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("12 runs where params.decay.name = 'linear': 12 of 12 runs compared")
    assert "cosine" not in outcome.out
    assert "mult=0.7" not in outcome.out


def test_a_run_that_differs_in_more_than_its_rates_is_compared_with_none_and_named(
    quick: Report, client: MlflowClient
) -> None:
    uniform = make_runs(client, UNIFORM, uniform=True, mult="1.0", batch_size="16")
    better = make_runs(client, BETTER, mult="0.9", batch_size="16")
    outcome = quick(*uniform, *better, *make_runs(client, [0.5], mult="0.7", batch_size="32"))
    assert "No uniform run has the same values of all else as mult=0.7 (batch_size=32): no difference is known." in (
        outcome.out
    )
    assert "p = 0.0312" in first_sentence(outcome.out)


def test_several_sweeps_are_compared_together(quick: Report, client: MlflowClient, tmp_path: Path) -> None:
    one = make_sweep(client, [*seeds(UNIFORM, True, mult="1.0"), *seeds(UNIFORM[::-1], mult="0.8")], name="first")
    other = make_sweep(client, seeds(BETTER, mult="0.9"), name="second")
    outcome = quick(one, "second", "-o", "here")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("2 sweeps (first; second): 18 of 18 runs compared")
    assert first_sentence(outcome.out).startswith("mult=0.9 is better than uniform rates by 1.83 points")
    assert "p = 0.0312 corrected for 2 comparisons" in outcome.out
    assert set(rows(tmp_path / "here")) == {"uniform", "mult=0.8", "mult=0.9"}
    for sweep in (one, other):
        assert not (tmp_path / "outputs" / "mlartifacts" / sweep / "artifacts" / "report").exists()


def test_runs_on_different_data_are_not_pooled_and_their_models_are_named(
    quick: Report,
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    for data, less in (("digits", 0.0), ("text", 0.3)):
        values = [[value - less for value in each] for each in (UNIFORM, BETTER)]
        make_runs(client, values[0], uniform=True, mult="1.0", data__name=data, model__name="a")
        make_runs(client, values[1], mult="0.9", data__name=data, model__name="a")
    outcome = quick("--filter", "params.mult != '7'", "-o", "here")
    assert first_sentence(outcome.out) == (
        "The runs have 2 different data, which are not compared with each other: data.name=digits, data.name=text."
    )
    for data in ("digits", "text"):
        said = f"data.name={data}: mult=0.9 data={data} is better than uniform rates by 1.83 points in test accuracy"
        assert said in outcome.out
    assert "corrected for 2 comparisons" in outcome.out
    assert len(rows(tmp_path / "here")) == 4
    for start in (START - 100, START + 100):  # before and after the others: models are named in their own order
        make_runs(client, UNIFORM, uniform=True, start=start, mult="1.0", data__name="text", model__name="b")
        outcome = quick("--filter", "params.mult != '7'")
        said = "The runs have different models (a, b): a difference to uniform rates is between runs of one model."
        assert said in outcome.out


def test_runs_of_other_loops_are_reported_with_their_own_metric_where_low_values_are_good(
    quick: Report,
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    own = {"lwexp.folder": "somewhere"}  # as lwexp.track leaves them
    losses = [[3.0 - value for value in each] for each in (UNIFORM, BETTER)]
    names = {"metric": "rmse", "prefixes": ("val_", "test_"), "tags": own}
    uniform = make_runs(client, losses[0], uniform=True, mult="1.0", **names)  # type: ignore[arg-type]
    better = make_runs(client, losses[1], mult="0.9", **names)  # type: ignore[arg-type]
    outcome = quick(*uniform, *better, "-o", "here")
    assert first_sentence(outcome.out).startswith("mult=0.9 is better than uniform rates by 0.01833 in test rmse")
    assert float(rows(tmp_path / "here")["mult=0.9"]["val_mean"]) == pytest.approx(sum(losses[1]) / 6 - 0.1)
    assert quick(*uniform, *better, "--metric", "val_rmse").code == 0
    error = quick(*uniform, *better, "--metric", "val/rmsee").err
    assert error.startswith("lwexp-report: --metric=val/rmsee: no run has it on validation")


def test_runs_without_a_seed_are_repetitions_that_cannot_be_paired(quick: Report, client: MlflowClient) -> None:
    uniform = make_runs(client, UNIFORM, uniform=True, seeded=False, mult="1.0")
    outcome = quick(*uniform, *make_runs(client, BETTER, seeded=False, mult="0.9"))
    assert "share no seed with a metric on test" in first_sentence(outcome.out)
    assert "12 of 12 runs have no param seed" in outcome.out


def test_without_a_test_metric_validation_is_compared(quick: Report, client: MlflowClient) -> None:
    names = {"prefixes": ("val/", "train/")}
    uniform = make_runs(client, UNIFORM, uniform=True, mult="1.0", **names)  # type: ignore[arg-type]
    outcome = quick(*uniform, *make_runs(client, BETTER, mult="0.9", **names))  # type: ignore[arg-type]
    assert first_sentence(outcome.out).startswith(
        "mult=0.9 is better than uniform rates by 1.83 points in validation accuracy"
    )
    assert "No run has a test metric" in outcome.out


def stored(number: int, metrics: Mapping[str, float] | None = None, **params: str) -> StoredRun:
    return StoredRun(
        id=str(number), name="", status="FINISHED", started=0, experiment_id="1", tags={"lwexp.folder": "x"},
        params={key.replace("__", "."): value for key, value in params.items()}, metrics=metrics or {},
    )  # fmt: skip


def test_only_the_settings_that_tell_runs_apart_make_a_point() -> None:
    runs = [
        stored(1, lr="0.1", policy__name="cosine", policy__min="0", seed="0", optimizer__name="sgd"),
        stored(2, lr="0.1", policy__name="none", seed="1", optimizer__name="sgd"),
        stored(3, lr="0.10", policy__name="cosine", policy__min="0", seed="1", optimizer__name="sgd"),
        stored(4),
    ]
    cosine = {"policy": "cosine"}
    assert points_of(runs) == {"1": cosine, "2": {"policy": "none"}, "3": cosine}


def test_the_metric_is_that_which_runs_monitor_else_the_main_one_of_their_task() -> None:
    both = {"val/accuracy": 0.9, "val/f1": 0.8, "val/loss": 1.0}
    assert measured([stored(1, both)]).name == "accuracy"
    found = measured([stored(1, both, monitor="val/f1", monitor_mode="min")])
    assert (found.name, found.validation, found.test, found.mode) == ("f1", "val/f1", "test/f1", "min")
    assert measured([stored(1, {"val/rmse": 1.0, "val/loss": 1.0})]).name == "rmse"
    for wanted in ("test/accuracy", "best/accuracy", "val/accuracy", "accuracy"):  # chosen on validation in any case
        found = measured([stored(1, {**both, "test/accuracy": 0.8, "best/accuracy": 0.9})], wanted)
        assert (found.validation, found.test) == ("val/accuracy", "test/accuracy")
    assert measured([stored(1, {"valid_dice": 1.0, "valid_loss": 1.0})]).test == "test_dice"


def test_the_best_value_is_that_which_the_run_has_logged_as_best() -> None:
    run = stored(1, {"val/accuracy": 0.7, "best/accuracy": 0.9})
    assert measured([run]).best_of(run, {}) == 0.9
