"""`lwexp.track`: what is recorded of a training that is not lwexp's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

import lwexp
from lwexp import ConfigError
from lwexp.errors import RunError
from tests.helpers.tracked_loops import RATES, as_points, losses, network, only_run, planned, points


def test_every_rate_and_loss_of_every_step_is_in_mlflow_exactly_once_with_the_plan(
    client: MlflowClient, tmp_path: Path
) -> None:
    plan, optimizer, scheduler = planned(8, warmup_steps=2)
    seen = {}
    (tmp_path / "notes.txt").write_text("mine")
    with lwexp.track(scheduler, experiment="mine", params={"batch_size": 4}, tags={"team": "a"}) as record:
        for number, loss in enumerate(losses(optimizer, 8)):
            record.step({"train/loss": loss})
            scheduler.step()
            seen[number] = loss.item()
            if number == 3:
                record.log({"val/accuracy": 0.5})
        record.artifact(tmp_path / "notes.txt")
        record.tag({"best": 3})
    run = only_run(client, "mine")
    assert (run.info.run_id, run.info.status) == (record.run_id, "FINISHED")
    assert run.info.run_name == "Sequential top_module linear mult=0.7"
    table = plan.lr_table("cosine", steps=8, warmup_steps=2)
    for position, key in enumerate(RATES):
        assert points(client, record.run_id, key) == as_points(dict(enumerate(table[:, position].tolist())))
    assert points(client, record.run_id, "train/loss") == as_points(seen)
    assert points(client, record.run_id, "val/accuracy") == as_points({3: 0.5})
    assert run.data.metrics.keys() == {*RATES, "train/loss", "val/accuracy"}

    expected = {"lr": "0.1", "mult": "0.7", "decay.name": "linear", "policy.name": "cosine", "policy.warmup_steps": "2"}
    expected |= {"steps": "8", "batch_size": "4", "optimizer.name": type(optimizer).__name__}
    assert expected.items() <= run.data.params.items()
    tags = run.data.tags
    assert (tags["lwexp.plan"], tags["lwexp.folder"]) == (plan.hash, str(record.folder))
    assert (tags["lwexp.lr.head"], tags["lwexp.lr.stem"], tags["lwexp.lr.uniform"]) == ("0.1", "0.07", "false")
    assert (tags["team"], tags["best"]) == ("a", "3")
    assert tags["mlflow.note.content"] == plan.to_markdown(8000)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    pictures = {"rates.html", "rates_by_depth.png", "rates_by_step.png", "rates_heatmap.png"}
    assert files == {"plan.csv", "plan.json", "notes.txt", *pictures}
    assert (record.folder / "plan.csv").read_text() == plan.to_csv()
    assert json.loads((record.folder / "plan.json").read_text())["hash"] == plan.hash
    assert record.folder.parent == tmp_path / "outputs" / "runs"


@pytest.mark.usefixtures("no_pictures")
def test_rates_are_those_of_any_optimizer_whose_groups_have_the_plans_parameters(client: MlflowClient) -> None:
    model, extra = network(), nn.Parameter(torch.ones(2))
    plan = lwexp.make_plan(model, lr=0.1, mult=0.5)
    stem, head = (list(module.parameters()) for module in (model[0], model[2]))
    body = torch.optim.SGD([{"params": stem, "lr": 0.3}, {"params": [extra], "lr": 9.0}], lr=1.0)
    top = torch.optim.AdamW(head, lr=torch.tensor(0.25))
    later = torch.optim.lr_scheduler.ExponentialLR(body, 0.5)
    with lwexp.track(plan, [top, body], name="two") as record:
        for _ in range(3):
            body.step()
            top.step()
            record.step()
            later.step()
    run = only_run(client)
    assert run.info.run_name == "two"
    assert run.data.params["optimizer.name"] == "AdamW, SGD"
    assert points(client, record.run_id, "lr/00_2") == as_points(dict.fromkeys(range(3), 0.25))
    assert points(client, record.run_id, "lr/01_0") == as_points({0: 0.3, 1: 0.15, 2: 0.075})
    assert points(client, record.run_id, "lr/param_group_2") == as_points({0: 9.0, 1: 4.5, 2: 2.25})


@pytest.mark.usefixtures("no_pictures")
def test_a_group_that_joins_later_is_recorded_from_then_on(client: MlflowClient) -> None:
    model = network()
    plan = lwexp.make_plan(model, lr=0.1, mult=0.5)
    head, stem = plan.param_groups()
    optimizer = torch.optim.SGD([head])
    with lwexp.track(plan, optimizer) as record:
        record.step()
        optimizer.add_param_group(stem)
        record.step()
    assert points(client, record.run_id, RATES[0]) == as_points({0: 0.1, 1: 0.1})
    assert points(client, record.run_id, RATES[1]) == as_points({1: 0.05})


def test_rates_that_no_schedule_knows_are_drawn_at_the_end_as_they_were(client: MlflowClient) -> None:
    _, optimizer, scheduler = planned(8, "plateau", patience=0, factor=0.5)
    with lwexp.track(scheduler) as record:
        for _ in range(4):
            optimizer.step()
            record.step()
            scheduler.step(1.0)
        assert not (record.folder / "rates.html").exists()
    assert points(client, record.run_id, RATES[0]) == as_points({0: 0.1, 1: 0.1, 2: 0.05, 3: 0.025})
    assert "rates.html" in {file.path for file in client.list_artifacts(str(record.run_id))}


class Stop(BaseException):
    """An error that is no `Exception`."""


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("no more\ndata"), "FAILED", "no more data"),
        (Stop("now"), "FAILED", "now"),
        (SystemExit(3), "FAILED", "3"),
        (SystemExit(), "FINISHED", None),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
    ],
)
def test_the_run_ends_as_the_block_does(
    error: BaseException, status: str, reason: str | None, client: MlflowClient
) -> None:
    _, _, scheduler = planned()
    record = lwexp.track(scheduler)

    def train() -> None:
        with record:
            record.step({"a": 1})
            raise error

    with pytest.raises(type(error)):
        train()
    run = only_run(client)
    assert (run.info.status, run.data.tags.get("lwexp.reason")) == (status, reason)
    assert points(client, record.run_id, "a") == as_points({0: 1.0})
    record.end()  # does nothing any more
    with pytest.raises(RunError, match="has ended; a step cannot be recorded"):
        record.step()


@pytest.mark.usefixtures("no_pictures")
def test_a_plain_object_does_the_same(client: MlflowClient) -> None:
    _, _, scheduler = planned()
    record = lwexp.track(scheduler)
    with pytest.raises(RunError, match="has not been started"):
        record.step()
    assert record.start() is record
    with pytest.raises(RunError, match="has been started already"):
        record.start()
    record.step()
    record.end("FAILED", "lost interest")
    run = only_run(client)
    assert (run.info.status, run.data.tags["lwexp.reason"]) == ("FAILED", "lost interest")


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_keeps_its_points_and_gets_only_new_ones(client: MlflowClient) -> None:
    _, optimizer, scheduler = planned(10)
    saved = {}
    record = lwexp.track(scheduler, folder="outputs/mine").start()
    for number in range(6):
        optimizer.step()
        record.step({"train/loss": number})
        scheduler.step()
        saved[number + 1] = scheduler.state_dict()
    record.end("FAILED", "lost")

    plan, optimizer, again = planned(10)
    again.load_state_dict(saved[4])
    with lwexp.track(again, folder="outputs/mine", resume="auto", tags={"try": 2}) as resumed:
        for number in range(4, 10):
            optimizer.step()
            resumed.step({"train/loss": 100 + number})
            again.step()
    assert resumed.run_id == record.run_id
    run = only_run(client)
    assert (run.info.status, run.data.tags["lwexp.resumed"], run.data.tags["try"]) == ("FINISHED", "step 4", "2")
    assert "lwexp.reason" not in run.data.tags
    table = plan.lr_table("cosine", steps=10)
    assert points(client, record.run_id, RATES[1]) == as_points(dict(enumerate(table[:, 1].tolist())))
    expected = {number: number if number < 6 else 100 + number for number in range(10)}
    assert points(client, record.run_id, "train/loss") == as_points(expected)


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_whose_step_is_unknown_asks_for_it(client: MlflowClient) -> None:
    plan, optimizer, _ = planned()
    with lwexp.track(plan, optimizer, folder="mine") as record:
        record.step()
        record.step()
    with lwexp.track(plan, optimizer, resume=record.folder) as resumed:
        with pytest.raises(ConfigError, match=r"^step=null: the run has the steps up to 1; give the number"):
            resumed.step()
        resumed.log({"a": 1.0})
        resumed.step(step=2)
        resumed.step()
        resumed.log({"b": 1.0})
    assert [[step for step, _ in points(client, record.run_id, key)] for key in ("a", "b")] == [[1], [3]]


@pytest.mark.usefixtures("no_pictures", "client")
def test_what_would_be_recorded_wrongly_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    _, optimizer, scheduler = planned()
    record = lwexp.track(scheduler, folder="mine").start()
    optimizer.step()
    scheduler.step()
    with pytest.raises(ConfigError, match=r"^step=1: call record\.step\(\) before scheduler\.step\(\)"):
        record.step()
    record.step({"a": 1.0}, step=1)
    mistakes: list[tuple[dict[str, Any], int | None, str]] = [
        ({}, 1, r"^step=1: step 1 has been recorded already; steps count up$"),
        ({}, -1, r"^step=-1: must be at least 0$"),
        ({}, "x", r"^step=x: must be a whole number$"),  # type: ignore[list-item]
        ({"lr/00_2": 1.0}, None, r"^metrics=lr/00_2: is the name of a group's rate"),
        ({"b": "one"}, None, r"^metrics.b=one: must be a number"),
        ({"b": torch.ones(2)}, None, r"^metrics.b=Tensor of shape \(2,\): must be a number"),
    ]
    for metrics, step, message in mistakes:
        with pytest.raises(ConfigError, match=message):
            record.step(metrics, step=step)
    with pytest.raises(ConfigError, match=r"^step=0: a has been recorded at step 1 already"):
        record.log({"a": 2.0}, 0)
    with pytest.raises(ConfigError, match=r"^step=1: lr/00_2 has been recorded at step 1 already"):
        record.log({"lr/00_2": 2.0})
    record.step({"b": torch.tensor([2.0], requires_grad=True)})
    record.end()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")
    assert {k: [s for s, _ in points(client, record.run_id, k)] for k in ("a", "b", RATES[0])} == {
        "a": [1], "b": [2], RATES[0]: [1, 2],
    }  # fmt: skip


@pytest.mark.usefixtures("no_pictures", "client")
def test_a_folder_holds_one_run_of_one_plan_that_only_resume_continues() -> None:
    plan, optimizer, scheduler = planned()
    with lwexp.track(scheduler, folder="mine") as record:
        record.step()
        with pytest.raises(ConfigError, match=r"/mine: holds a run already"):
            lwexp.track(scheduler, folder="mine").start()
    with pytest.raises(ConfigError, match=r"^folder=.*/mine: holds a run already; resume=\"auto\" continues it"):
        lwexp.track(plan, optimizer, folder="mine").start()
    with pytest.raises(ConfigError, match=r"^resume=other: holds no run"):
        lwexp.track(plan, optimizer, resume="other").start()
    assert not Path("other").exists()
    other = lwexp.make_plan(network(), lr=0.1, mult=0.9)
    with pytest.raises(ConfigError, match=rf"^plan={other.hash}: .*, {plan.hash}: 01_0 0.07 -> 0.09; start"):
        lwexp.track(other, other.optimizer("sgd"), resume="mine").start()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": 3}, r"^plan=int: must be a plan"),
        ({"optimizer": None}, r"^optimizer=null: must be an optimizer"),
        ({"optimizer": "adam"}, r"^optimizer=str: must be an optimizer"),
        ({"params": ["a"]}, r"^params=\['a'\]: must be a mapping"),
        ({"folder": ""}, r"^folder=: must be the path of a folder"),
        ({"resume": "auto"}, r"^resume=auto: needs folder"),
        ({"folder": "a", "resume": "b"}, r"^folder=a: resume names another one, b"),
        ({"uri": "ftp://host/x"}, r"^uri=ftp://host/x: no such kind of store"),
        ({"uri": "http://anna:s3cret-Pa55@"}, r"^uri=http://anna:\*\*\*@: names no host"),
        ({"experiment": " "}, r"^experiment= *: must be a text"),
        ({"flush_timeout": -1}, r"^flush_timeout=-1\.0: must be at least 0"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_argument_and_leaves_no_folder(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    plan, optimizer, _ = planned()
    given: dict[str, Any] = {"plan": plan, "optimizer": optimizer, "folder": None, **changes}
    with pytest.raises(ConfigError, match=message) as raised:
        lwexp.track(**given).start()
    assert "\n" not in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("no_pictures", "client")
def test_an_optimizer_without_the_plans_parameters_is_refused_at_the_first_step() -> None:
    plan, _, _ = planned()
    with (
        lwexp.track(plan, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)) as record,
        pytest.raises(ConfigError, match=r"^optimizer=SGD: has no group of the plan"),
    ):
        record.step()
