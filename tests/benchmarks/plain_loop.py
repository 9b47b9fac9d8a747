"""Uniform and layer-wise rates in a plain PyTorch loop, without lwexp: a check of the study's results.

    python tests/benchmarks/plain_loop.py digits --weights outputs/source_tasks/resnet18-….safetensors
    python tests/benchmarks/plain_loop.py clothing --weights mobilenetv2.safetensors --path clothing

Trains with each `--arm LR MULT` and each of `--seeds`, and prints the accuracy on the test images. An arm's rate is
LR * MULT**k in layer k, counted from the head as `LAYERS` lists them; MULT 1 is uniform. Tasks are those of the study:
`digits` (resnet18 with weights from the digits 0, 1, 3, 6, 7, 60 images of the others) and `clothing` (MobileNetV2,
400 photographs). Splits of the digits are scikit-learn's with the seed 0, so the test images are those of lwexp; which
training images are drawn, their order and the new head are not. Compare the means of several seeds with those of the
study: `lwexp.run weights=source_task data.train_size=60 data.augment=none batch_size=20 epochs=20
eval_every_epochs=20 policy=cosine grouping=depth_index`, and so on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

TARGET_DIGITS = [2, 4, 5, 8, 9]
# prefixes of the parameters of each layer, from the head down
LAYERS = {
    "digits": [
        ["fc"], ["layer4.1"], ["layer4.0"], ["layer3.1"], ["layer3.0"], ["layer2.1"], ["layer2.0"], ["layer1.1"],
        ["layer1.0"], ["conv1", "bn1"],
    ],
    "clothing": [
        ["classifier"], ["conv_head", "bn2", "blocks.6.0"], ["blocks.5.2"], ["blocks.5.1"], ["blocks.5.0"],
        ["blocks.4.2"], ["blocks.4.1"], ["blocks.4.0"], ["blocks.3.3"], ["blocks.3.2"], ["blocks.3.1"], ["blocks.3.0"],
        ["blocks.2.2"], ["blocks.2.1"], ["blocks.2.0"], ["blocks.1.1"], ["blocks.1.0"], ["blocks.0.0"],
        ["conv_stem", "bn1"],
    ],
}  # fmt: skip
BATCH, EPOCHS = {"digits": 20, "clothing": 32}, {"digits": 20, "clothing": 8}
ARMS = {"digits": [(1e-3, 1.0), (1e-2, 0.7)], "clothing": [(1e-3, 1.0), (3e-3, 0.7)]}
SIZE = {"digits": 60, "clothing": 400}  # training images
Data = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and labels to train with, then those of the test


def digits() -> Data:
    """The target digits, 32x32, normalized: all that may be trained with, and the test's."""
    found = load_digits()
    train, rest = train_test_split(range(len(found.target)), test_size=0.3, random_state=0, stratify=found.target)
    _, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=found.target[rest])
    pixels = (found.images * 255 / 16).round().astype(np.uint8)
    mean, std = (pixels[train] / 255).mean(), (pixels[train] / 255).std()
    large = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in pixels]
    inputs = ((torch.from_numpy(np.stack(large)) / 255 - mean) / std).float()[:, None]
    parts = [[i for i in part if found.target[i] in TARGET_DIGITS] for part in (train, test)]
    labels = torch.tensor([TARGET_DIGITS.index(i) if i in TARGET_DIGITS else -1 for i in found.target])
    return inputs[parts[0]], labels[parts[0]], inputs[parts[1]], labels[parts[1]]


def clothing(path: Path) -> Data:
    """The photographs in `path`, from -1 to 1: the middle 64x64 of 73x73 pixels, which is timm's crop of 7/8."""
    classes = sorted(folder.name for folder in (path / "train").iterdir())
    result: list[Tensor] = []
    for split in ("train", "test"):
        files = sorted((path / split).glob("*/*.jpg"))
        images = [Image.open(file).convert("RGB").resize((73, 73), Image.Resampling.BICUBIC) for file in files]
        small = [np.asarray(image.crop((4, 4, 68, 68))) for image in images]
        result.append((torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        result.append(torch.tensor([classes.index(file.parent.name) for file in files]))
    return result[0], result[1], result[2], result[3]


def network(task: str, weights: Path) -> nn.Module:
    """The network with the weights of the file, but for the head, which is drawn."""
    if task == "digits":
        model = timm.create_model("resnet18", num_classes=len(TARGET_DIGITS), in_chans=1)
    else:
        model = timm.create_model("mobilenetv2_100", num_classes=10, pad_type="same")
    head = LAYERS[task][0][0]
    state = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith(f"{head}.")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (sorted(missing), unexpected) == ([f"{head}.bias", f"{head}.weight"], []), (missing, unexpected)
    return model


def trained(task: str, data: Data, weights: Path, lr: float, mult: float, seed: int) -> float:
    """Accuracy on the test images after a training."""
    torch.manual_seed(seed)
    inputs, labels, test_inputs, test_labels = data
    every = range(len(labels))
    part, _ = train_test_split(every, train_size=SIZE[task], random_state=seed, stratify=labels.numpy())
    inputs, labels = inputs[part], labels[part]
    model = network(task, weights)
    groups = []
    for k, prefixes in enumerate(LAYERS[task]):
        starts = tuple(f"{prefix}." for prefix in prefixes)
        own = [parameter for name, parameter in model.named_parameters() if name.startswith(starts)]
        groups.append({"params": own, "lr": lr * mult**k})
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer = torch.optim.Adam(groups)
    steps = EPOCHS[task] * (len(labels) // BATCH[task])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(EPOCHS[task]):
        order = torch.randperm(len(labels))
        for first in range(0, len(order) - BATCH[task] + 1, BATCH[task]):
            batch = order[first : first + BATCH[task]]
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    model.eval()
    with torch.inference_mode():
        scores = torch.cat([model(part) for part in test_inputs.split(64)])
    return (scores.argmax(dim=1) == test_labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=LAYERS)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file to start from")
    parser.add_argument("--path", type=Path, help="folder of the photographs: <split>/<class>/*.jpg")
    parser.add_argument("--arm", type=float, nargs=2, action="append", metavar=("LR", "MULT"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(1, 9)])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.task == "clothing" and options.path is None:
        parser.error("clothing needs --path")
    data = digits() if options.task == "digits" else clothing(options.path)
    for lr, mult in options.arm or ARMS[options.task]:
        start = time.perf_counter()
        found = [100 * trained(options.task, data, options.weights, lr, mult, seed) for seed in options.seeds]
        seconds = (time.perf_counter() - start) / len(found)
        spread = statistics.stdev(found) if len(found) > 1 else float("nan")
        each = " ".join(f"{value:.1f}" for value in found)
        result = f"lr={lr:g} mult={mult:g}: test accuracy {statistics.mean(found):.1f} % +- {spread:.1f}"
        print(f"{result} ({each}), {seconds:.1f} s each", flush=True)


if __name__ == "__main__":
    main()
