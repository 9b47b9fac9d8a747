"""Plans of networks inside DDP, FSDP1, FSDP2 and ZeRO-1, in two processes: groups, rates and losses of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from lwexp import make_plan
from tests.helpers.commands import ROOT
from tests.helpers.sharded_plans import SETTINGS, STEPS, network, train

KINDS = ("ddp", "zero1", "fsdp1", "fsdp2")


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """What each training has seen; all in one start of the two processes, which takes seconds."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [sys.executable, *command, "tests.helpers.sharded_plans", *KINDS],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("SEEN ")).removeprefix("SEEN "))


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_rates_and_losses_of_one(seen: dict[str, dict[str, Any]], kind: str) -> None:
    found, alone = seen[kind], train("none")
    plan = make_plan(network(), **SETTINGS)
    assert found["lr"] == alone["lr"]
    assert found["groups"] == alone["groups"]
    assert found["rates"] == plan.lr_table("cosine", steps=STEPS, warmup_steps=2).tolist()
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert alone["losses"][0] != pytest.approx(alone["losses"][-1], rel=1e-2)
    unpassed = "no forward pass of a network inside FullyShardedDataParallel is recorded; plan it before it is sharded"
    assert any(unpassed in note for note in found["notes"]) == (kind == "fsdp1")


def test_a_network_inside_fsdp1_has_the_groups_of_the_bare_one(seen: dict[str, dict[str, Any]]) -> None:
    """Row 1, from the order of registration, where a part of each parameter in one dimension is all there is."""
    found = seen["vgg16 in fsdp1"]
    assert found["groups"] == found["bare"]
    assert len(found["groups"]) == 16
