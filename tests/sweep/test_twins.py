"""Uniform twins: the config says which runs are uniform, with which one each is compared, and what ends its rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode

from lwexp.cli.app import register
from lwexp.config.defaults import CONF
from lwexp.experiment.manifest import Point
from lwexp.sweep.planning import Planner

Grid = Callable[..., tuple[Point, ...]]


def loader(folder: Path | None = None) -> ConfigLoader:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import SearchPathElement
    from hydra._internal.utils import create_config_search_path

    register("runs")
    path = create_config_search_path(str(CONF))
    if folder is not None:
        path.get_path().insert(-1, SearchPathElement("command-line", f"file://{folder}"))
    return ConfigLoaderImpl(path)


def points(*arguments: str, folder: Path | None = None) -> tuple[Point, ...]:
    """The points of a sweep's command; `folder` as --config-dir."""
    loads = loader(folder)
    config = loads.load_configuration("config", list(arguments), RunMode.MULTIRUN)
    config.hydra.runtime.cwd = "."
    planner = Planner(config, loads)
    found = planner.grid(arguments, [], None).points
    assert not planner.mistakes(point for point in found if point.baseline)
    return found


def twins(found: Sequence[Point]) -> list[tuple[str, ...]]:
    assert all(point.arm == "uniform" for point in found if point.baseline)
    return [point.overrides for point in found if point.baseline]


@pytest.mark.parametrize(("command", "expected"), [
    (["decay.mult=0.5,0.8"], ("mult=1",)),
    (["mult=0.5,0.8", "lr_overrides.conv1=0.3"], ("mult=1", "lr_overrides=null")),
    (["lr_overrides.fc=0.1,0.2", "lr_overrides.conv1=0.3", "mult=1"], ("lr_overrides=null", "mult=1")),
    (["decay={name:linear,mult:0.5},{name:cosine,min_scale:0.5}", "lr=0.1"], ("lr=0.1", "mult=1")),
    (["decay=cosine", "decay.min_scale=0.1,0.2"], ("decay=none",)),
    (["decay=explicit", "decay.rates={fc:1},{fc:2}", "seed=3"], ("decay=none", "seed=3")),
    (["freeze=[conv1],[fc]", "mult=1"], ("freeze=[]", "mult=1")),
    (["freeze=[conv1]", "freeze_mode=lr_zero", "mult=0.9,0.8"], ("freeze=[]", "freeze_mode=lr_zero", "mult=1")),
    (["unfreeze.every_epochs=1,2"], ("unfreeze.every_epochs=null", "mult=1")),
    (["mult=0.8,0.9", "lr_events=[{step:1,group:0,lr:0.5}]"], ("mult=1", "lr_events=[]")),
    (["policies={fc: cosine}", "mult=0.8,0.9"], ("policies=null", "mult=1")),
    (["policies.fc.name=cosine,linear", "mult=1"], ("policies=null", "mult=1")),
    (["phases=[{epochs: 1, train: [fc]}, {}]", "mult=0.8,0.9"], ("phases=[]", "mult=1")),
    (["unfreeze.at={conv1: 3}", "mult=0.8,0.9"], ("unfreeze.at=null", "mult=1")),
    (["grouping=top_module,per_parameter"], ("grouping=top_module", "mult=1")),
    (["lr_mults={fc:10},{fc:2}", "mult=1"], ("lr_mults=null", "mult=1")),
    (["lr_mults.fc=1,2", "decay=layer_decay", "mult=0.8"], ("lr_mults=null", "decay=layer_decay", "mult=1")),
    (["decay.stem_lr=1e-5,1e-4", "lr=0.1"], ("lr=0.1", "mult=1")),
    (["decay=cosine", "decay.stem_lr=1e-5,1e-4"], ("decay=none",)),
    (["mult=0.8,0.9", "weight_decay_mult=0.5", "split_groups=[fc]"],
     ("mult=1", "weight_decay_mult=0.5", "split_groups=[fc]")),
])  # fmt: skip
def test_a_twin_ends_all_that_sets_rates_apart_and_leaves_the_rest(command: list[str], expected: tuple[str]) -> None:
    assert twins(points(*command)) == [expected]


@pytest.mark.parametrize("command", [
    ["decay=cosine", "decay.min_scale=0.2,1.0"],
    ["decay.mult=0.5,1.0"],
    ["lr=0.1", "mult=1", "lr_overrides.fc=0.1,0.2"],
    ["mult=1", "lr_mults.fc=1,2"],
    ["lr=0.1", "decay.stem_lr=0.1,0.01"],
    ["decay=linear,none"],
])  # fmt: skip
def test_a_job_with_equal_rates_is_uniform_whatever_its_keys_say(command: list[str]) -> None:
    found = points(*command)
    assert not twins(found)
    assert sorted(point.arm for point in found) == ["layerwise", "uniform"]


def test_what_a_file_sets_is_ended_too_and_jobs_that_differ_in_it_alone_share_a_twin(tmp_path: Path) -> None:
    (tmp_path / "variant").mkdir()
    for name, rate in (("a", 0.1), ("b", 0.2)):
        text = f"# @package _global_\nlr: 0.5\nlr_overrides: {{fc: {rate}}}\nfreeze: [conv1]\ndecay: {{mult: 0.7}}\n"
        (tmp_path / "variant" / f"{name}.yaml").write_text(text, encoding="utf-8")
    found = points("+variant=a,b", folder=tmp_path)
    assert [point.arm for point in found] == ["layerwise", "layerwise", "uniform"]
    assert twins(found) == [("+variant=a", "lr_overrides=null", "freeze=[]", "decay.mult=1")]


def test_a_stems_rate_from_a_file_is_ended_too(tmp_path: Path) -> None:
    (tmp_path / "variant").mkdir()
    text = "# @package _global_\nlr: 0.5\ndecay: {stem_lr: 1e-5}\n"
    (tmp_path / "variant" / "a.yaml").write_text(text, encoding="utf-8")
    assert twins(points("+variant=a", "seed=0,1", "sweep.baseline=true", folder=tmp_path)) == [
        ("+variant=a", f"seed={seed}", "mult=1", "decay.stem_lr=null") for seed in (0, 1)
    ]


def test_a_recipe_that_freezes_all_but_the_head_has_a_twin_that_freezes_nothing() -> None:
    (twin,) = twins(points("recipe=head_only", "mult=1", "lr=0.1,0.2", "sweep.baseline=true", "lr=0.1"))
    assert {"train=[]", "freeze_stats=false"} <= {*twin}


def test_options_of_the_optimizer_belong_to_no_arm() -> None:
    """A run and its uniform twin have the same weight decay; each setting of it has its own twin."""
    found = points("mult=0.8", "optimizer=adamw", "group_options={fc:{weight_decay:0}},{fc:{weight_decay:1}}",
                   "sweep.baseline=true")  # fmt: skip
    assert [point.arm for point in found] == ["layerwise", "layerwise", "uniform", "uniform"]


def test_a_multiplier_given_by_both_of_its_names_is_refused() -> None:
    loads = loader()
    config = loads.load_configuration("config", [], RunMode.MULTIRUN)
    error = Planner(config, loads).config_of(("mult=0.9", "decay.mult=0.8"))
    assert str(error) == "decay.mult=0.8: is another name of mult, which is 0.9; give one of them"


@pytest.mark.parametrize(("mults", "decays"), [("0.8", "linear,cosine"), ("0.8,1.0", "linear"), ("0.8", "linear,none")])
def test_every_seed_and_rate_has_a_uniform_run_and_at_most_one_twin(mults: str, decays: str) -> None:
    found = points(f"mult={mults}", "lr=0.1,0.01", "seed=0,1", f"decay={decays}")

    def place(point: Point) -> tuple[str, str]:
        values = dict(override.split("=") for override in point.overrides)
        return values["lr"], values["seed"]

    uniform = [place(point) for point in found if point.arm == "uniform"]
    assert sorted(uniform) == [("0.01", "0"), ("0.01", "1"), ("0.1", "0"), ("0.1", "1")]
