"""Where the plan says that it is unsure of the order, and where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lwexp import make_plan
from lwexp.core.depth import find_depths
from tests.helpers.depth_networks import Block, HeadFirst, UNet
from tests.helpers.user_networks import NETWORKS, Built

DOUBT = "unsure of the order of depths"


def doubts(model: nn.Module, example: object) -> str:
    notes = [note for note in find_depths(model, "execution", example).notes if DOUBT in note]
    assert len(notes) <= 1
    return notes[0] if notes else ""


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "skipped_blocks"])
def test_nothing_is_doubted_where_the_order_is_right(name: str) -> None:
    build, example, _ = NETWORKS[name]
    assert doubts(build(), example) == ""


def test_nor_for_a_u_net_or_a_head_that_is_registered_first() -> None:
    assert doubts(UNet(), torch.zeros(2, 3, 16, 16)) == doubts(HeadFirst(), torch.zeros(2, 3, 16, 16)) == ""


def test_many_unused_weights_are_a_doubt() -> None:
    build, example, _ = NETWORKS["skipped_blocks"]
    found = doubts(build(), example)
    assert "% of the weights were not used in the forward pass" in found


def test_outputs_at_several_depths_are_a_doubt() -> None:
    def run(net: Built, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = net.stem(x)
        return net.side(early), net.head(net.blocks(early))

    blocks = nn.Sequential(*(Block() for _ in range(3)))
    model = Built(run, stem=nn.Linear(8, 8), side=Block(), blocks=blocks, head=nn.Linear(8, 2))
    assert "side" in doubts(model, torch.zeros(2, 8))


def test_layers_that_no_data_reach_are_a_doubt_and_the_plan_says_so() -> None:
    class Blind(nn.Module):
        """Reads its input as numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(Block() for _ in range(3)))
            self.head = nn.Linear(8, 2)

        def forward(self, rows: list[list[float]]) -> torch.Tensor:
            return self.head(self.blocks(torch.tensor(rows)))

    example = ([[0.0] * 8] * 2,)
    assert "no data of the input were seen to reach blocks.0" in doubts(Blind(), example)
    plan = make_plan(Blind(), grouping="depth_index", example_input=example)
    assert any(DOUBT in note for note in plan.notes)
