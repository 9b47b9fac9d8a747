"""A search looks where the monitored metric is good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from lwexp.errors import ConfigError  # noqa: E402
from lwexp.plots import process  # noqa: E402
from lwexp.sweep.search.pruning import check_direction  # noqa: E402
from lwexp.sweep.search.study import open_storage  # noqa: E402
from lwexp.training.monitor import Monitor  # noqa: E402
from tests.helpers.commands import RunHere  # noqa: E402


def test_a_search_minimizes_the_loss_that_is_monitored(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])
    outcome = lwexp_here(
        "run", "-m", "model=lstm", "model.hidden_size=8", "data.image_size=8", "progress=false", "tracking=none",
        "sweep.isolate=false", "sweep.baseline=false", "batch_size=256", "epochs=1", "mult=0.9", "lr=0.02,1e-9",
        "monitor=val/loss", "hydra/sweeper=optuna", "hydra.sweeper.sampler.name=bruteforce", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.pruner.name=null", "hydra.sweeper.uniform_trials=0", "hydra.sweeper.repeat.best=0",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    study = optuna.load_study(study_name="search", storage=open_storage(None, folder))
    assert study.direction.name == "MINIMIZE"
    losses = [json.loads((folder / str(number) / "result.json").read_text())["val/loss"] for number in range(2)]
    assert sorted(trial.value for trial in study.trials) == sorted(losses)
    assert f"best: lr=0.02  val/loss {min(losses):.4g} (trial " in outcome.out


def test_a_direction_that_looks_for_the_worst_is_refused() -> None:
    why = r"hydra\.sweeper\.direction=maximize: low values of val/rmse are good: minimize, or another monitor"
    with pytest.raises(ConfigError, match=why):
        check_direction("maximize", Monitor("val/rmse", "min"))
    check_direction("minimize", Monitor("val/rmse", "min"))
