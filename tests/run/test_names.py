"""Names, tags and notes of runs, as MLflow shows them."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from tests.helpers.commands import RunHere

from .runs import SMALL, Store

ONE_STEP = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "max_steps=1", "progress=false"]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize(("options", "name"), [
    ([], "lstm model.hidden_size=8 batch_size=256 max_steps=1 data.image_size=8"),
    (["lr=0.01", "mult=0.8", "seed=3"], "lstm lr=0.01 mult=0.8 model.hidden_size=8 batch_size=256 max_steps=1 "
     "data.image_size=8 seed=3"),
], ids=["the defaults", "rates and seed"])  # fmt: skip
def test_a_run_is_named_by_what_differs_from_the_defaults(
    options: list[str], name: str, lwexp_here: RunHere, store: Store
) -> None:
    outcome = lwexp_here("run", *ONE_STEP, *options)
    assert outcome.code == 0, outcome.err
    assert sorted(store.run().info.run_name.split()) == sorted(name.split())
    assert store.run().info.run_name.split()[: 1 + min(2, len(options))] == name.split()[: 1 + min(2, len(options))]


def test_a_long_name_ends_at_a_whole_part(lwexp_here: RunHere, store: Store) -> None:
    many = [f"lr_mults={{lstm.weight_ih_l{i % 2}: 0.5, head: {i}}}" for i in range(1, 3)]
    outcome = lwexp_here("run", *ONE_STEP, "lr=0.02", "mult=0.7", "policy=cosine", "policy.warmup_steps=1",
                         "loss.label_smoothing=0.1", "accumulate=2", "clip_grad_norm=1.0", *many[1:])  # fmt: skip
    assert outcome.code == 0, outcome.err
    name = store.run().info.run_name
    assert name.startswith("lstm lr=0.02 mult=0.7 policy=cosine policy.warmup_steps=1 ")
    assert name.endswith(" …")
    assert len(name) <= 120


def test_name_tags_and_notes_are_the_users_also_when_a_run_resumes(lwexp_here: RunHere, store: Store) -> None:
    place = ["hydra.run.dir=mine", "resume=auto"]
    own = ["name=first try", "tags={team: vision, ticket: 12}", "tags.a.b=true", "notes=**why**: to see"]
    outcome = lwexp_here("run", *SMALL, *own, *place)
    assert outcome.code == 0, outcome.err
    run = store.run()
    assert run.info.run_name == "first try"
    assert {key: run.data.tags[key] for key in ("team", "ticket", "a.b")} == {
        "team": "vision", "ticket": "12", "a.b": "true",
    }  # fmt: skip
    note = run.data.tags["mlflow.note.content"]
    accuracy = run.data.metrics["test/accuracy"]
    first, second, notes = note.split("\n\n")[:3]
    assert first.startswith("**val accuracy ")
    assert second.startswith(f"**test accuracy {100 * accuracy:.2f} %**")
    assert notes == "**why**: to see"
    assert not {"name", "notes", "tags", "tags.team"} & run.data.params.keys()

    outcome = lwexp_here("run", *SMALL, "name=second", "tags={team: speech}", "epochs=3", "max_steps=9", *place)
    assert outcome.code == 0, outcome.err
    run = MlflowClient(tracking_uri=store.client.tracking_uri).get_run(run.info.run_id)
    assert (run.info.run_name, run.data.tags["team"]) == ("second", "speech")


@pytest.mark.parametrize(("option", "line"), [
    ("tags={lwexp.kind: sweep}", "tags.lwexp.kind=sweep: names that begin so belong to lwexp and MLflow"),
    ("tags={team: null}", "tags.team"),
    ("name=", "name"),
])  # fmt: skip
def test_a_mistaken_tag_or_name_is_one_line(option: str, line: str, lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *ONE_STEP, option)
    assert outcome.code == 2
    assert line in outcome.err
    assert outcome.err.count("\n") == 1
