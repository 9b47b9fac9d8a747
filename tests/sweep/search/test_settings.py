"""The options of `hydra/sweeper=optuna`, and Optuna missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lwexp.sweep.search import sweeper
from tests.helpers.commands import Outcome

RunHere = Callable[..., Outcome]
OPTUNA = ["run", "-m", "hydra/sweeper=optuna", "model=lstm", "tracking=none", "hydra.sweeper.n_trials=1", "max_steps=1"]


def test_a_missing_optuna_is_one_line(lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweeper, "find_spec", lambda name: None)
    outcome = lwexp_here(*OPTUNA)
    assert outcome.code == 2
    assert outcome.err == "error: hydra/sweeper=optuna: needs Optuna: pip install -e '.[optuna]'\n"


@pytest.mark.parametrize(("options", "line"), [
    (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: should be greater than or equal to 1"),
    (["+hydra.sweeper.n_trails=9"], "hydra.sweeper.n_trails=9: unknown option; did you mean n_trials"),
    (["hydra.sweeper.pruner.name=medain"], "hydra.sweeper.pruner.name=medain: no such pruner in Optuna; did you mean"),
    (["+hydra.sweeper.sampler.options.gama=1"], "hydra.sweeper.sampler.options.gama=1: TPESampler has no such"),
    (["hydra.sweeper.params=null"], "hydra.sweeper.params={}: nothing to search: give an interval"),
    (["mult=0.9", "lr=0.1", "seed=0,1"], "hydra.sweeper.params={'mult': 'interval(0.7, 1.0)', 'lr':"),
    (["lr=tag(lgo,interval(1,2))"], "lr=lgo: no such tag; did you mean log"),
    (["seed=0,1", "hydra.sweeper.seeds=[2]"], "hydra.sweeper.seeds=[2]: the command gives several values of seed"),
    (["epochs=none"], "epochs=none: should be a valid integer"),
    (["epochs=0"], "epochs=0: should be greater than or equal to 1"),
])  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_drawn(
    options: list[str], line: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    outcome = lwexp_here(*OPTUNA, *options)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {line}")
    assert len(outcome.err.splitlines()) == 1
    assert not list(tmp_path.rglob("sweep.json"))
