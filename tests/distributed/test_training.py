"""One training on several processes: results as in one, up to rounding; printed once; stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import nn

from lwexp.data import EpochSampler
from lwexp.distributed import launch
from lwexp.distributed.batch_shard import BatchShard
from lwexp.distributed.world import SINGLE
from lwexp.errors import ConfigError
from lwexp.training.loss import BatchWeight, make_loss
from tests.helpers.commands import Outcome
from tests.helpers.distributed_training import CASES, make_trainer, outcome, resumed

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Of float64 weights of size 1 after 7 steps: sums over shards round differently, and Adam divides small by small
TOLERANCE = {"float32": 1e-5, "frozen": 1e-8, "skipped": 1e-8, "batch norms, frozen statistics": 1e-9}
BASIC_TOLERANCE = 1e-13


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_", "PYTEST_"))}
    return kept | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def make_cases(folder: Path, *arguments: str) -> dict[str, Any]:
    """Results of the cases, in a single process and in several."""
    slow = arguments == ("slow",)
    alone = {
        name: outcome(make_trainer(folder / "alone" / name, case)) for name, case in CASES.items() if case.slow == slow
    }
    command = [*TORCHRUN, "-m", "tests.helpers.distributed_training", str(folder), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return {"folder": folder, "alone": alone, **torch.load(folder / "cases.pt", weights_only=False)}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    return make_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def slow_cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    return make_cases(tmp_path_factory.mktemp("slow_cases"), "slow")


def assert_alike(found: dict[str, Any], alone: dict[str, Any], tolerance: float = BASIC_TOLERANCE) -> None:
    """The same steps and names, the same rates bit for bit, losses, metrics and weights within `tolerance`."""
    assert found["labels"] == alone["labels"]
    for key, value in found["logged"].items():
        exact = key[0].startswith("lr/") or "accuracy" in key[0] or key[0] == "train/skipped"
        # losses are logged as float32
        assert (
            value == alone["logged"][key]
            if exact
            else value == pytest.approx(alone["logged"][key], abs=4e-7, nan_ok=True)
        ), key
    assert found["model"].keys() == alone["model"].keys()
    for name, tensor in alone["model"].items():
        torch.testing.assert_close(found["model"][name], tensor, rtol=tolerance, atol=tolerance)
    assert found["optimizer"]["state"].keys() == alone["optimizer"]["state"].keys()
    assert [group["name"] for group in found["optimizer"]["param_groups"]] == [
        group["name"] for group in alone["optimizer"]["param_groups"]
    ]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.slow])
def test_two_processes_train_as_one(cases: dict[str, Any], name: str, parallel: str) -> None:
    found, alone = cases["found"][f"{parallel} {name}"], cases["alone"][name]
    assert found["logged"].keys() == alone["logged"].keys(), "one value for each step and name"
    assert_alike(found, alone, TOLERANCE.get(name, BASIC_TOLERANCE))


def test_the_nets_have_many_groups(cases: dict[str, Any]) -> None:
    assert len(cases["found"]["fsdp batch norms"]["labels"]) >= 62


def test_all_ranks_stop_alike_when_one_has_a_reason_to(cases: dict[str, Any]) -> None:
    for name in cases["found"]:
        first, second = (ends[name] for ends in cases["ends"])
        if name.endswith(" broken"):
            line = "data.path=photos: cannot read the image seven.png: the file is empty"
            assert [first[0], second[0]] == [f"RemoteError: {line}", f"CorruptImageError: {line}"]
        else:
            assert first == second
        if name.endswith(" stop"):
            assert first[0].startswith("RunError: the loss is nan at optimizer step 4, where the head (")
            assert first[1] == 4


def test_a_training_resumes_with_another_number_of_processes(cases: dict[str, Any], tmp_path: Path) -> None:
    """From 1 to 2, to 2 otherwise wrapped, and from 2 to 1."""
    for parallel, other, name in (("ddp", "fsdp", "layer norms"), ("fsdp", "ddp", "batch norms")):
        ended, step = cases["ends"][0][f"{parallel} from one"]
        assert (ended, step) == ("Interrupted: SIGTERM", 5), "all stop after the step in which one has the signal"
        assert_alike(cases["found"][f"{other} over"], cases["alone"][name])
        file = cases["folder"] / "back" / name / "checkpoints" / "step_00000005.ckpt"
        assert_alike(resumed(tmp_path / parallel, CASES[name], SINGLE, file), cases["alone"][name])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_resumed_on_as_many_processes_everything_is_the_same_bit_for_bit(cases: dict[str, Any], parallel: str) -> None:
    whole, again = cases["found"][f"{parallel} dropout"], cases["found"][f"{parallel} dropout again"]
    assert whole["random"] == again["random"]
    assert whole["random"][0] != whole["random"][1][0], "each process drops other units"
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, again["model"][name])


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_further_cases_of_two_processes(slow_cases: dict[str, Any], parallel: str) -> None:
    for name, alone in slow_cases["alone"].items():
        assert_alike(slow_cases["found"][f"{parallel} {name}"], alone, TOLERANCE.get(name, BASIC_TOLERANCE))
    found = slow_cases["found"]
    assert slow_cases["ends"][0] == slow_cases["ends"][1]
    assert slow_cases["ends"][0][f"{parallel} SIGINT"] == ("KeyboardInterrupt: ", 3)
    assert found[f"{parallel} SIGUSR1"]["saved"] == ["step_00000003.ckpt"]
    for precision in ("bf16", "fp16"):
        assert all(tensor.isfinite().all() for tensor in found[f"{parallel} {precision}"]["model"].values())


# The command in several processes


RUN = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=250", "epochs=2", "max_steps=6",
       "progress=false", "grouping=per_parameter", "optimizer=sgd"]  # fmt: skip


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, "-m", "lwexp.run", *RUN, *arguments], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def values(folder: Path) -> tuple[Any, dict[tuple[str, int], float]]:
    """The only run in the store of `folder`, and its metrics; each has one value for a step."""
    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    found: dict[tuple[str, int], float] = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            assert (name, metric.step) not in found
            found[name, metric.step] = metric.value
    return run, found


def test_run_on_two_processes_keeps_one_record_of_what_one_would_do(
    tmp_path: Path, lwexp_here: Callable[..., Outcome]
) -> None:
    (tmp_path / "two").mkdir()
    process = started(tmp_path / "two", "parallel=fsdp", "hydra.run.dir=run")
    assert lwexp_here("run", *RUN, "tracking=none", "hydra.run.dir=one").code == 0
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    for line in ("epoch 2/2 ", "\ngrouping=per_parameter", "best validation accuracy"):
        assert printed.count(line) == 1, "one process speaks"
    run, found = values(tmp_path / "two")
    assert run.info.status == "FINISHED"
    assert run.data.tags["lwexp.processes"] == "2 (fsdp)"
    assert {step for name, step in found if name == "train/loss"} == set(range(6))
    assert sum(name.startswith("lr/") for name, _ in found) == 6 * 10
    one, two = load_file(tmp_path / "one" / "model.safetensors"), load_file(tmp_path / "two/run/model.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-6)
    rows = [(tmp_path / where / "evaluation/predictions.csv").read_text().splitlines() for where in ("one", "two/run")]
    one_sample, two_samples = ([row.split(",")[:2] for row in table] for table in rows)
    assert one_sample == two_samples, "samples of both processes in the order of the split, with their classes"
    made = {path.name for path in (tmp_path / "two").iterdir()}
    assert made == {"run", "outputs"}, "the other process makes no folder"


@pytest.fixture
def second_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.0)


@pytest.mark.usefixtures("second_process")
@pytest.mark.parametrize("arguments", [["lrr=1"], ["lr=-1"], ["-m", "seed=0,1"]])
def test_a_mistake_is_printed_by_rank_zero_only(
    lwexp_here: Callable[..., Outcome], tmp_path: Path, arguments: list[str]
) -> None:
    assert lwexp_here("run", *RUN, *arguments) == Outcome(2, "", "")
    assert [*tmp_path.iterdir()] == []


def test_a_sweep_is_not_started_by_several(lwexp_here: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    outcome = lwexp_here("run", *RUN, "-m", "seed=0,1")
    why = "a sweep is started by one process; start each of its runs on several"
    assert (outcome.code, outcome.err) == (2, f"error: WORLD_SIZE=2: {why}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lrr=1"], "error: lrr=1: unknown option; did you mean lr?"),
        (["batch_size=1"], "error: batch_size=1: each of the 2 processes needs a part of the batch"),
        (["device=cuda:1"], "error: device=cuda:1: several processes train on auto, cpu or cuda, one GPU each"),
        (["parallel=fsdp", "channels_last=true"], "error: channels_last=True: parallel=fsdp takes parameters"),
    ],
)
def test_a_mistake_is_printed_once_and_leaves_nothing(tmp_path: Path, arguments: list[str], line: str) -> None:
    process = started(tmp_path, "tracking=none", *arguments)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    lines = [text for text in printed.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1, printed
    assert lines[0].startswith(line)
    assert "exitcode  : 2" in printed, "torchrun's own report, after which it exits with 1"
    assert not (tmp_path / "outputs" / "runs").exists() or [*(tmp_path / "outputs" / "runs").iterdir()] == []


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks, in order."""
    found: dict[str, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == process.pid:
                env = dict(e.partition("=")[::2] for e in (path / "environ").read_text().split("\0"))
                found[env["RANK"]] = int(path.name)
        except (OSError, KeyError, ValueError):
            continue
    return [found[rank] for rank in sorted(found)]


def when_training(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    """Wait until a checkpoint of at least so many steps is there."""
    deadline = time.monotonic() + 120
    while not any((folder / "checkpoints").glob(f"step_0000{steps // 1000}*.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


LONG = ["epochs=2000", "max_steps=6000", "checkpoint.every_steps=100", "hydra.run.dir=run"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_all_and_the_run_is_not_left_running(tmp_path: Path, rank: int) -> None:
    process = started(tmp_path, *LONG)
    when_training(process, tmp_path / "run", 0)
    os.kill(workers_of(process)[rank], signal.SIGKILL)
    printed, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    deadline = time.monotonic() + 60
    while (run := values(tmp_path)[0]).info.status == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert run.info.status in ("FAILED", "KILLED"), printed


@pytest.mark.slow
def test_a_terminated_run_saves_and_resumes_with_one_process_and_with_two_again(
    tmp_path: Path, lwexp_here: Callable[..., Outcome]
) -> None:
    length = ["epochs=300", "max_steps=900", "checkpoint.every_steps=100", "hydra.run.dir=run", "policy=cosine"]
    assert lwexp_here("run", *RUN, *length, "hydra.run.dir=whole", "tracking=none").code == 0
    process = started(tmp_path, *length)
    when_training(process, tmp_path / "run", 0)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    assert printed.count("resume with: python -m lwexp.run resume=run") == 1
    saved = newest(tmp_path / "run")
    assert 100 <= saved < 900
    middle = min(saved + 100, 850)
    assert lwexp_here("run", "resume=run", f"lr_events=[{{step: {middle}, group: 0, lr: 1.0}}]").code == 2
    alone = subprocess.Popen(
        [sys.executable, "-m", "lwexp.run", "resume=run"], cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while newest(tmp_path / "run") <= saved:
        assert alone.poll() is None, alone.communicate()[0]
        time.sleep(0.02)
    alone.send_signal(signal.SIGTERM)
    alone.communicate(timeout=90)
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "lwexp.run", "resume=run", "parallel=fsdp"], cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    run, found = values(tmp_path)
    assert run.info.status == "FINISHED"
    assert {step for name, step in found if name == "train/loss"} == set(range(900))
    whole, parted = load_file(tmp_path / "whole/model.safetensors"), load_file(tmp_path / "run/model.safetensors")
    for name in whole:
        torch.testing.assert_close(parted[name], whole[name], rtol=0, atol=1e-4)


def newest(folder: Path) -> int:
    return max((int(path.name[5:13]) for path in (folder / "checkpoints").glob("step_*.ckpt")), default=0)


# Parts


@given(
    samples=st.integers(1, 40), batch=st.integers(1, 12), parts=st.integers(2, 5), seed=st.none() | st.integers(0, 3)
)
def test_shards_make_up_each_batch(samples: int, batch: int, parts: int, seed: int | None) -> None:
    whole = EpochSampler(samples, batch, seed)
    own = [EpochSampler(samples, batch, seed, BatchShard(number, parts)) for number in range(parts)]
    assert {len(sampler) for sampler in own} == {len(whole)}
    for i, (size, keys) in enumerate(zip(whole.batch_sizes(), whole, strict=True)):
        assert size == len(keys)
        joined = []
        for sampler in own:
            first, last = sampler.shard.bounds(size)
            part = [*sampler][i]
            assert len(part) == max(last - first, 1), "no process is without a sample"
            joined += part[: last - first]
        assert joined == keys


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 0.0]])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize("name", ["CrossEntropyLoss", "MultiMarginLoss", "MSELoss"])
def test_mean_of_a_batch_from_those_of_its_parts(name: str, weights: list[float] | None, options: Any) -> None:
    if (weights and name == "MSELoss") or (options and name != "CrossEntropyLoss"):
        return
    loss = make_loss(name, 3, class_weights=weights, **options)
    weigh, labels = BatchWeight(loss), torch.tensor([0, 1, 2, 1, 0, 0, 1])
    scores = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    parts = [slice(0, 2), slice(2, 7)]
    total = sum(weigh(labels[part]) * loss(scores[part], labels[part]) for part in parts) / weigh(labels)
    torch.testing.assert_close(total, loss(scores, labels))


def test_what_is_ignored_has_no_weight() -> None:
    weigh = BatchWeight(nn.CrossEntropyLoss(ignore_index=1))
    assert weigh(torch.tensor([0, 1, 1, 2])) == 2


@pytest.mark.parametrize("value", ["x", "-1", "1.5"])
def test_an_invalid_environment_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^RANK={value}: is not an integer"):
        launch.read_launch()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_without_all_of_a_launchers_variables_it_is_one_process(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(other, "3")
    assert launch.read_launch().size == 3
    monkeypatch.delenv(name)
    assert launch.read_launch() == launch.Launch()


@pytest.mark.slow
def test_one_process_sets_up_nothing() -> None:
    code = "import sys, torch; before = set(sys.modules); import lwexp.training.trainer; "
    code += "print(torch.distributed.is_initialized(), "
    code += "[m for m in set(sys.modules) - before if m.startswith('torch.distributed')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False []\n"
