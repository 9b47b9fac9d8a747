"""The MLflow model of a run: in the store once, with signature and example, and of use where lwexp is not installed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

import lwexp
from lwexp.inference.serving import check_archive
from tests.helpers.commands import RunHere
from tests.inference.test_load import TEXTS, cut_the_end, photographs, reviews
from tests.inference.test_predict import PHOTOS
from tests.run.runs import SMALL

# what runs it has no lwexp: its folder is not on the path, and an import of it fails
APART = """
import json, os, sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lwexp":
            raise ModuleNotFoundError("lwexp is not installed here")
sys.meta_path.insert(0, Refusing())
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, pandas, torch
"""


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.delenv("LWEXP_NO_MODELS")
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")


def run(lwexp_here: RunHere, *options: str) -> Path:
    ended = lwexp_here("run", *options, "hydra.run.dir=outputs/runs/mine")
    assert ended.code == 0, ended.err
    return Path("outputs/runs/mine")


def models(client: MlflowClient) -> list[Any]:
    return list(client.search_logged_models([e.experiment_id for e in client.search_experiments()]))


def place(model: Any) -> Path:
    return Path(model.artifact_location.removeprefix("file://"))


def odd_images() -> list[str]:
    """Images whose mode, transparency or orientation must be handled as in the training."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels).save("transparent.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save("deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels[:, :, :3]).save("turned.jpg", exif=exif)
    return ["transparent.png", "deep.png", "turned.jpg"]


def apart(code: str) -> Any:
    """What `code` leaves in `found`, run in a process in which lwexp cannot be imported."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", f"{APART}\n{code}\nprint(json.dumps(found))"], capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_images_are_classified_where_lwexp_is_not_installed(lwexp_here: RunHere, client: MlflowClient) -> None:
    photographs(Path("photos"))
    folder = run(lwexp_here, *PHOTOS, "tracking.register_model=squares")
    (model,) = models(client)
    assert (str(model.status), model.name, model.model_type) == ("READY", "lstm", "classification")
    (tracked,) = client.search_runs(["1"])
    assert model.source_run_id == tracked.info.run_id
    assert [output.model_id for output in tracked.outputs.model_outputs] == [model.model_id]
    (version,) = client.search_model_versions()
    assert (version.name, str(version.version)) == ("squares", "1")

    files = [*map(str, sorted(Path("photos/test").rglob("*.png"))), *odd_images()]
    images = [base64.b64encode(Path(files[0]).read_bytes()).decode(), *files[1:]]
    found = apart(
        f"model = mlflow.pyfunc.load_model({str(place(model))!r})\n"
        f"table = model.predict(pandas.DataFrame({{'image': {images!r}}}))\n"
        "found = [model.metadata.signature.to_dict(), table.to_dict('list'), model.input_example.to_dict('list')]\n"
        "model.predict(model.input_example)\n"
    )
    signature, table, example = found
    assert [spec["name"] for spec in json.loads(signature["inputs"])] == ["image"]
    assert list(example) == ["image"]
    expected = lwexp.load(folder).predict(files)
    assert table["class"] == [("blue", "red")[int(row.argmax())] for row in expected]
    assert torch.allclose(torch.tensor(table["probabilities"]), expected, atol=1e-5)


def test_the_network_itself_loads_without_unpickling(lwexp_here: RunHere, client: MlflowClient) -> None:
    folder = run(lwexp_here, *SMALL)
    (model,) = models(client)
    found = apart(
        f"network = mlflow.pytorch.load_model({str(place(model))!r})\n"
        "found = network(torch.arange(5 * 64).reshape(5, 1, 8, 8) / 320).tolist()\n"
    )
    expected = lwexp.load(folder).outputs(torch.arange(5 * 64).reshape(5, 1, 8, 8) / 320)
    assert torch.allclose(torch.tensor(found), expected, atol=1e-5)


@pytest.mark.slow
def test_mlflows_own_command_predicts_texts(lwexp_here: RunHere, client: MlflowClient) -> None:
    """`mlflow models predict --env-manager local`, started outside of the checkout."""
    reviews(Path("reviews.csv"))
    folder = run(lwexp_here, *TEXTS)
    (model,) = models(client)
    Path("new.csv").write_text("text\na fine film\ndull\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "models", "predict", "-m", str(place(model)), "-i", "new.csv", "-t", "csv",
         "-o", "found.json", "--env-manager", "local"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predictions = json.loads(Path("found.json").read_text())["predictions"]
    expected = lwexp.load(folder).predict(["a fine film", "dull"])
    assert torch.allclose(torch.tensor([row["probabilities"] for row in predictions]), expected, atol=1e-5)


def test_a_run_that_ends_again_has_still_one_model(lwexp_here: RunHere, client: MlflowClient) -> None:
    """Killed between the model and the end: the same model is neither logged nor registered twice."""
    folder = run(lwexp_here, *SMALL, "tracking.register_model=digits")
    cut_the_end(folder)
    (folder / "delivery.json").unlink()
    ended = lwexp_here("run", f"resume={folder}")
    assert ended.code == 0, ended.err
    assert len(models(client)) == 1
    assert len(client.search_model_versions()) == 1


def test_a_network_that_cannot_be_exported_is_said_and_the_run_ends_well(
    lwexp_here: RunHere, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "my_branch2.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, num_classes), nn.Linear(64, num_classes)\n"
        "    def forward(self, x):\n"
        "        x = x.flatten(1)\n"
        "        return self.a(x) if float(x.sum()) > 0 else self.b(x)\n"
    )
    run(lwexp_here, "model=custom", "model._target_=my_branch2.Net", "data.image_size=8", "max_steps=2",
        "progress=false", "decay=none")  # fmt: skip
    assert models(client) == []
    (tracked,) = client.search_runs(["1"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["lwexp.model"].startswith("none: the network cannot be exported by torch.export: ")


def test_it_can_be_switched_off(lwexp_here: RunHere, client: MlflowClient) -> None:
    folder = run(lwexp_here, *SMALL, "tracking.model=false")
    assert models(client) == []
    assert not (folder / "model").exists()


def test_a_sweep_has_the_model_of_its_best_job(lwexp_here: RunHere, client: MlflowClient) -> None:
    ended = lwexp_here(
        "run", "-m", "lr=1e-9,0.05", *SMALL[:-2], "epochs=3", "progress=false", "sweep.baseline=false",
        "sweep.isolate=false", "sweep.report=false", "hydra.sweep.dir=outputs/sweeps/mine",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (model,) = models(client)
    assert model.tags["lwexp.job"] == "lr=0.05"
    parent = client.get_run(model.source_run_id)
    assert parent.data.tags["lwexp.kind"] == "sweep"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("m/data/weights/model_weights_config.json", '{"config":{"a":{"use_pickle":true}}}')], "execute code"),
        ([("m/data/weights/MODEL_WEIGHTS_CONFIG.JSON", '{"a":{"use_pickle":1,"use_pickle":false}}')], "execute code"),
        ([("m/a_config.json", "{}"), ("m/A_config.json", "{}")], "twice"),
        ([("m/a_config.json", "{")], "is not JSON"),
        ([("m/a_config.json", '{"config": {"a": {"use_pickle": false}}}')], None),
    ],
    ids=["spaces", "case and keys", "twice", "broken", "plain"],
)
def test_an_archive_that_would_be_unpickled_is_refused(
    tmp_path: Path, entries: list[tuple[str, str]], why: str | None
) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    if why is None:
        check_archive(tmp_path / "model.pt2")
        return
    with pytest.raises(ValueError, match=why):
        check_archive(tmp_path / "model.pt2")
