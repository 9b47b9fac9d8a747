"""How a run's images become the model's input: options, what the weights were trained with, the data's standard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from tests.helpers.commands import Outcome, RunHere
from tests.helpers.torchvision_files import mnist
from tests.run.runs import FAKE, SMALL, UNTRACKED, folders, weights

pytestmark = pytest.mark.usefixtures("no_pictures")
# timm's own values for this network differ from ImageNet's in everything
NET = ["model=vit_tiny_patch16_224", "grouping=depth_index", *FAKE, *UNTRACKED]
OWN = "mean 0.5, std 0.5, bicubic, center crop 0.9"
FILE = ["weights=checkpoint", "weights.path=net.safetensors"]


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def line(outcome: Outcome) -> str:
    """What the run says of its preprocessing."""
    assert outcome.code == 0, outcome.err
    found = re.findall(r"^images: +(.*)$", outcome.out, re.MULTILINE)
    assert len(found) == 1, outcome.out
    return str(found[0])


def recorded(folder: Path) -> dict[str, Any]:
    values = json.loads((folder / "inference.json").read_text(encoding="utf-8"))["preprocessing"]
    assert isinstance(values, dict)
    return values


def test_weights_of_a_file_get_the_models_own_preprocessing_and_say_so(
    lwexp_here: RunHere, weights_file: Path, tmp_path: Path
) -> None:
    said = line(lwexp_here("run", *NET, *FILE))
    assert said.startswith(f"32x32 RGB, {OWN} (as of the published vit_tiny_patch16_224; if the file's weights")
    values = recorded(folders(tmp_path)[0])
    assert (values["mean"], values["std"], values["interpolation"]) == ([0.5] * 3, [0.5] * 3, "bicubic")
    said = line(lwexp_here("run", *NET))
    assert said == "32x32 RGB, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, bilinear (ImageNet's)"


def test_options_go_before_the_weights_and_each_counts_alone(
    lwexp_here: RunHere, weights_file: Path, tmp_path: Path
) -> None:
    given = ["data.mean=[0.1,0.2,0.3]", "data.std=0.25", "data.interpolation=bilinear", "data.crop=0.75"]
    said = line(lwexp_here("run", *NET, *FILE, *given))
    assert said == (
        "32x32 RGB, mean 0.1 0.2 0.3, std 0.25, bilinear, center crop 0.75 "
        "(data.mean, data.std, data.interpolation, data.crop)"
    )
    one = line(lwexp_here("run", *NET, *FILE, "data.std=0.25"))
    assert one.startswith(
        "32x32 RGB, mean 0.5, std 0.25, bicubic, center crop 0.9 (data.std; else as of the published vit_tiny"
    )
    assert any(not torch.equal(first, weights(folders(tmp_path)[1])[name])
               for name, first in weights(folders(tmp_path)[0]).items())  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", {"pretrained_cfg": {"mean": [0.3] * 3, "std": [0.2] * 3, "crop_pct": 1.0}},
         "mean 0.3, std 0.2, bilinear (config.json beside net.safetensors)"),
        ("preprocessor_config.json", {"image_mean": [0.4] * 3, "image_std": [0.1] * 3, "resample": 3},
         "mean 0.4, std 0.1, bicubic (preprocessor_config.json beside net.safetensors)"),
        ("config.json", {"pretrained_cfg": {"mean": None}}, f"{OWN} (as of the published vit_tiny_patch16_224"),
    ],
)  # fmt: skip
def test_what_the_libraries_write_beside_the_file_counts(
    name: str, content: dict[str, Any], said: str, lwexp_here: RunHere, weights_file: Path
) -> None:
    weights_file.with_name(name).write_text(json.dumps(content))
    assert line(lwexp_here("run", *NET, *FILE)).startswith(f"32x32 RGB, {said}")


def test_the_weights_of_a_run_bring_its_preprocessing(lwexp_here: RunHere, tmp_path: Path) -> None:
    line(lwexp_here("run", *NET, "data.mean=0.25", "data.std=0.75"))
    (first,) = folders(tmp_path)
    path = f"weights.path={first.relative_to(tmp_path)}/best.safetensors"
    said = line(lwexp_here("run", *NET, "weights=checkpoint", path))
    assert said == f"32x32 RGB, mean 0.25, std 0.75, bilinear (of the run {first.name})"


def test_a_run_of_an_earlier_version_resumes_with_the_preprocessing_that_it_had(
    lwexp_here: RunHere, weights_file: Path, tmp_path: Path
) -> None:
    """It has no record, and its config has none of the options: images were normalized as ImageNet's."""
    line(lwexp_here("run", *NET, *FILE, "checkpoint.every_steps=1"))
    (folder,) = folders(tmp_path)
    (folder / "inference.json").unlink()
    config = OmegaConf.load(folder / "config.yaml")
    for name in ("mean", "std", "interpolation", "crop"):
        del config["data"][name]
    OmegaConf.save(config, folder / "config.yaml")
    resume = [f"resume={folder.relative_to(tmp_path)}", "max_steps=4"]
    assert "mean 0.485" in line(lwexp_here("run", *resume))
    assert recorded(folder)["mean"] == [0.485, 0.456, 0.406]
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225, bilinear (as the run began)" in line(
        lwexp_here("run", resume[0], "max_steps=6")
    )


def test_data_with_measured_values_keep_them_whatever_the_model(lwexp_here: RunHere, tmp_path: Path) -> None:
    first = line(lwexp_here("run", *SMALL, *UNTRACKED))
    assert re.fullmatch(r"8x8 gray, mean 0\.\d+, std 0\.\d+, bilinear \(the training images'\)", first)
    assert "mean 0.5, std 0.5, bicubic (data.mean, data.std, data.interpolation; else" in line(
        lwexp_here("run", *SMALL, *UNTRACKED, "data.mean=[0.5]", "data.std=0.5", "data.interpolation=bicubic")
    )


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("data.mean=[0.5,0.5]", r"data\.mean=\[0\.5, 0\.5\]: must be one value, or 3, one for each channel"),
        ("data.mean=124", r"data\.mean=124: should be less than or equal to 1"),
        ("data.std=0", r"data\.std=0: should be greater than 0"),
        ("data.std=[]", r"data\.std=\[\]: "),
        ("data.interpolation=nearest", r"data\.interpolation=nearest: should be 'bilinear' or 'bicubic'"),
        ("data.crop=1.5", r"data\.crop=1\.5: should be less than or equal to 1"),
    ],
)
def test_values_that_cannot_be_are_one_line(option: str, why: str, lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *NET, option)
    assert outcome.code == 2
    assert re.fullmatch(f"error: {why}.*\n", outcome.err), outcome.err


def test_what_has_no_crop_refuses_one(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, "data.crop=0.9")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "data.crop=0.9: unknown option" in outcome.err
    mnist(tmp_path)
    digits = ["data=torchvision", "data.dataset=MNIST", "data.root=.", "batch_size=4"]
    outcome = lwexp_here("preview", "model=lstm", *digits, "data.crop=0.9")
    assert outcome.code == 2
    assert outcome.err == "error: data.crop=0.9: is for photographs; these images are resized whole\n"


def test_the_weights_are_the_files(lwexp_here: RunHere, weights_file: Path, tmp_path: Path) -> None:
    """A rate of nearly nothing: what is trained is what was loaded."""
    line(lwexp_here("run", *NET, *FILE, "lr=1e-12"))
    before = load_file(weights_file)
    for name, value in weights(folders(tmp_path)[0]).items():
        assert torch.allclose(value, before[name], atol=1e-6), name
