"""`temp_balance` and `heavy_tail`: the numbers of their authors' code, and networks of every kind.

`golden/heavy_tails.json` has what the functions of github.com/YefanZhou/TempBalance at 9f0d9c7 (`tempbalance.py`) and
github.com/hed-ucas/Layer-wise-Learning-Rate at bbd0dcf (`olmo/LRUnbalance.py`) return for the same weights on a CPU:
exponents by module, rates by parameter at base rate 1. They compute in float32, so a scale in [0.5, 1.5] differs in
the sixth digit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwexp import ConfigError, PlanScheduler, make_plan
from lwexp.core.measured.layers import find_layers
from lwexp.core.measured.spectra import FITS, eigenvalues, exponent, to_scales
from tests.helpers.commands import ROOT
from tests.helpers.spectral_networks import Convolutional, Language, with_tails

GOLDEN: dict[str, Any] = json.loads((ROOT / "tests" / "golden" / "heavy_tails.json").read_text(encoding="utf-8"))
NETWORKS = {"Convolutional": Convolutional, "Language": Language}


def started(model: nn.Module, decay: str, grouping: str = "per_parameter", **options: object) -> PlanScheduler:
    plan = make_plan(model, grouping=grouping, decay=decay, decay_options=options)
    return plan.scheduler(plan.optimizer("sgd"), steps=10)


def measured(model: nn.Module, decay: str, grouping: str = "per_parameter", **options: object) -> dict[str, float]:
    """Scales by the names of groups; no batch is needed."""
    scheduler = started(model, decay, grouping, **{"ramp_steps": 0, **options})
    scales = scheduler.measure(model, lambda *_: torch.zeros(()), [])
    assert scales is not None
    rates = scheduler.rates()
    assert rates == pytest.approx([scheduler.schedule.plan.lr * scale for scale in scales.values()])
    return scales


def alpha(weight: Tensor) -> float:
    return exponent(eigenvalues(weight))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", [*FITS, "median, xmin_pos=3", "median, filter_zeros"])
def test_exponents_are_those_of_the_authors_code(name: str, how: str) -> None:
    model = with_tails(NETWORKS[name]())
    fit = how.split(",", maxsplit=1)[0]
    found = {
        layer: exponent(
            eigenvalues(model.get_submodule(layer).get_parameter("weight")),
            fit,  # type: ignore[arg-type]
            xmin_pos=3 if "xmin_pos" in how else 2,
            filter_zeros="filter_zeros" in how,
        )
        for layer in GOLDEN[name]["exponents"][how]
    }
    assert found == pytest.approx(GOLDEN[name]["exponents"][how], rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", ["linear", "sqrt", "log2", "step", "linear, all eigenvalues"])
def test_temp_balance_gives_the_rates_of_the_authors_code(name: str, how: str) -> None:
    model = with_tails(NETWORKS[name]())
    fewest = 2 if "all eigenvalues" in how else 50
    scales = measured(model, "temp_balance", assign=how.split(",", maxsplit=1)[0], min_eigenvalues=fewest)
    assert scales == pytest.approx(GOLDEN[name]["temp_balance"][how], abs=1e-5)


def test_heavy_tail_gives_the_rates_of_the_authors_code() -> None:
    scales = measured(with_tails(Language()), "heavy_tail")
    assert scales == pytest.approx(GOLDEN["Language"]["heavy_tail"], abs=2e-5)
    assert scales["embed_tokens.weight"] == scales["lm_head.weight"] == 5


def test_the_exponent_is_hill_s() -> None:
    values = torch.tensor([0.1, 0.5, 2.0, 3.0, 7.0, 11.0])
    expected = 1 + 3 / (math.log(7 / 3) + math.log(11 / 3))
    rotated = torch.linalg.qr(torch.randn(6, 6)).Q @ torch.diag(values.sqrt())
    assert exponent(values) == pytest.approx(expected, rel=1e-6)
    assert alpha(rotated) == pytest.approx(expected, rel=1e-4)
    assert alpha(torch.cat([rotated, torch.zeros(4, 6)])) == alpha(rotated.T) == pytest.approx(expected, rel=1e-4)


def test_a_convolution_is_one_matrix_for_each_position_of_its_kernel() -> None:
    weight = torch.randn(7, 5, 3, 2, dtype=torch.float64)
    singular = [torch.linalg.svdvals(weight[:, :, i, j]) for i in range(3) for j in range(2)]
    expected = torch.cat(singular).square().sort().values / 2
    assert torch.allclose(eigenvalues(weight), expected)


@pytest.mark.parametrize(
    "weight",
    {
        "zero": torch.zeros(60, 60),
        "orthogonal": torch.eye(60) * 3,
        "one row": torch.randn(1, 60),
        "not finite": torch.full((60, 60), math.nan),
        "infinite": torch.full((60, 60), math.inf),
        "overflow": torch.full((60, 60), 3e38),
        "rank one": torch.ones(60, 60),
        "empty": torch.zeros(0, 60),
    }.items(),
    ids=lambda case: case[0],
)
@pytest.mark.parametrize("decay", ["temp_balance", "heavy_tail"])
def test_a_layer_without_a_spectrum_disturbs_no_other(decay: str, weight: tuple[str, Tensor]) -> None:
    kind, values = weight
    layers = [nn.Linear(64, 64) for _ in range(4)]
    with torch.no_grad():
        layers[2].weight = nn.Parameter(values)
    scales = measured(nn.Sequential(*layers), decay, min_eigenvalues=2)
    assert all(map(math.isfinite, scales.values()))
    assert (scales["2.weight"] == 1) == (kind not in ("rank one", "overflow") or decay == "heavy_tail")
    for fit in FITS:
        assert not math.isinf(exponent(eigenvalues(values), fit))


def test_equal_exponents_leave_the_base_rate() -> None:
    weight = torch.randn(64, 64)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    with torch.no_grad():
        for layer in model:
            layer.get_parameter("weight").copy_(weight)
    for decay in ("temp_balance", "heavy_tail"):
        assert {*measured(model, decay).values()} == {1.0}
    assert to_scales([3.0], "linear", 0.5, 1.5) == [1.0]


def test_a_network_of_small_layers_keeps_the_base_rate() -> None:
    assert {*measured(nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))), "temp_balance").values()} == {1.0}


def test_a_row_of_several_layers_has_the_mean_of_their_exponents() -> None:
    model = with_tails(Language())
    patterns = {
        "head": "lm_head", "late": ["norm", "layers.1"], "up": "layers.0.up*",
        "early": ["layers.0"], "stem": "*",
    }  # fmt: skip
    plan = make_plan(model, grouping="by_name", grouping_options={"patterns": patterns}, decay="temp_balance")
    scales = plan.scheduler(plan.optimizer("sgd")).measure(model, lambda *_: torch.zeros(()), [])
    assert scales is not None
    weights = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    means = {
        g.name: fmean(alphas)
        for g in plan
        if g.name not in ("head", "stem") and (alphas := [alpha(weights[n]) for n in g.parameter_names if n in weights])
    }
    assert len(means) == 3
    low, high = min(means.values()), max(means.values())
    assert {name: scales[name] for name in means} == pytest.approx(
        {name: 0.5 + (mean - low) / (high - low) for name, mean in means.items()}
    )
    assert scales["head"] == scales["stem"] == 1


def test_norms_and_biases_follow_their_layer() -> None:
    model = with_tails(Convolutional())
    scales = measured(model, "temp_balance", min_eigenvalues=2)
    for i in (2, 3, 4):
        assert scales[f"bn{i}.weight"] == scales[f"bn{i}.bias"] == scales[f"conv{i}.weight"] != 1
    assert scales["bn1.weight"] == scales["conv1.weight"] == scales["fc.bias"] == 1  # of the first and last layer
    without = measured(model, "temp_balance", min_eigenvalues=2, norms=False)
    assert {without[name] for name in without if name.startswith("bn")} == {1.0}
    assert without["mixer.bias"] == without["mixer.weight"] == scales["mixer.weight"] != 1


def test_a_frozen_layer_is_not_compared() -> None:
    model = with_tails(Language())
    all_of = measured(model, "temp_balance")
    most = max(all_of, key=lambda name: (all_of[name], name))
    plan = make_plan(model, grouping="per_parameter", decay="temp_balance", freeze=most, freeze_mode="lr_zero")
    scales = plan.scheduler(plan.optimizer("sgd")).measure(model, lambda *_: torch.zeros(()), [])
    assert scales is not None
    assert all_of[most] == 1.5
    assert scales[most] == 1
    assert max(scales.values()) == 1.5


class Kinds(nn.Module):
    """Layers of many kinds, with parameters beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 10, 16))
        self.table = nn.Parameter(torch.randn(10, 16))
        self.tokens = nn.Embedding(10, 16)
        self.conv = nn.Conv1d(16, 16, 3)
        self.norm = nn.GroupNorm(2, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, bidirectional=True)
        self.attention = nn.MultiheadAttention(32, 2)
        self.grid = nn.Conv3d(4, 6, 2)
        self.scaled = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
        self.head = nn.Linear(32, 3)


def test_layers_are_found_in_modules_of_every_kind() -> None:
    model = Kinds()
    found = find_layers(model, [[name for name, _ in model.named_parameters()][::-1]])
    recurrent = [
        f"lstm.weight_{kind}_l{i}{suffix}" for i in (0, 1) for suffix in ("", "_reverse") for kind in ("ih", "hh")
    ]
    scaled = [f"scaled.parametrizations.weight.original{i}" for i in (0, 1)]
    attention = ["attention.in_proj_weight", "attention.out_proj.weight"]
    expected = ["tokens.weight", "conv.weight", *recurrent, *attention, "grid.weight", *scaled, "head.weight"]
    assert [*found.weights] == expected[::-1]
    assert found.ends == {"tokens.weight", "head.weight"}
    assert found.own["lstm.bias_hh_l1_reverse"] == "lstm.weight_hh_l1_reverse"
    assert found.own["attention.in_proj_bias"] == "attention.in_proj_weight"
    assert found.before["norm.weight"] == "conv.weight"
    assert "norm.weight" not in found.own
    assert not {"positions", "table"} & {*found.own, *found.before, *found.weights}


@pytest.mark.parametrize("ends", ["base", "largest", "compared"])
def test_what_happens_to_the_ends(ends: str) -> None:
    scales = measured(with_tails(Language()), "temp_balance", ends=ends)
    of_ends = {scales["embed_tokens.weight"], scales["lm_head.weight"]}
    assert (of_ends == {1.0}) == (ends == "base")
    assert (of_ends == {1.5}) == (ends == "largest")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_scale": None}, r"decay\.max_scale=null: must be a number"),
        ({"xmin_pos": 1}, r"decay\.xmin_pos=1(\.0)?: must be above 1"),
        ({"min_eigenvalues": 1}, r"decay\.min_eigenvalues=1: must be at least 2"),
        ({"fit": "mean"}, r"decay\.fit=mean: not among the choices.*median"),
        ({"ends": "bas"}, r"decay\.ends=bas: not among the choices.*base"),
        ({"min_scale": 2}, r"decay\.max_scale=1\.5: must be at least 2"),
    ],
)
def test_mistakes_are_one_clear_line(options: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(Convolutional(), decay="temp_balance", decay_options=options)
