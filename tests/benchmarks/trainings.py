"""One training, written with each contestant: by default resnet18, scikit-learn's digits at 32×32, 64 a step, Adam.

All but the bare loops have a group for each parameter (62), with a rate of its own that follows a cosine, and log all
rates and the loss at every step to MLflow. All have the same images, decoded beforehand, and torch's fused kernel,
which no peer takes by default, but for `bare default`. A contestant's packages are imported by its own function alone.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

CLASSES = 10
LR, MULT = 1e-3, 0.95


@dataclass(frozen=True)
class Setting:
    """What is trained, and where: `folder` takes all that is written, `uri` is its MLflow store."""

    folder: Path = Path()
    epochs: int = 1
    device: str = "cpu"
    model: str = "resnet18"  # of timm
    image_size: int = 32  # pixels
    batch_size: int = 64
    precision: str = "fp32"  # or bf16: autocast
    workers: int = 0  # processes that make batches

    @property
    def steps_per_epoch(self) -> int:
        return len(images(self)) // self.batch_size

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


def network(setting: Setting) -> nn.Module:
    """timm's model for one channel, its weights the same for all."""
    import timm

    torch.manual_seed(0)
    return timm.create_model(setting.model, num_classes=CLASSES, in_chans=1)  # type: ignore[no-any-return]


@cache
def images(setting: Setting) -> TensorDataset:
    """lwexp's training images of digits without augmentation, and their labels, as tensors: what all train on."""
    from lwexp.config.data_schema import DigitsConfig
    from lwexp.data import open_data, standard_preprocessing

    config = DigitsConfig(name="digits", image_size=setting.image_size, split_seed=0, augment=False, workers=0)
    source = open_data(config, None)
    train = source.datasets(standard_preprocessing(source.info, setting.image_size, 1), False, 0).train
    samples, labels = zip(*(train[i] for i in range(len(train))), strict=True)
    return TensorDataset(torch.stack(samples), torch.tensor(labels))


def loader(setting: Setting) -> DataLoader[tuple[Tensor, ...]]:
    """Shuffled full batches, as everyone writes it."""
    return DataLoader(
        images(setting),
        setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=setting.workers,
        persistent_workers=setting.workers > 0,
        pin_memory=setting.device.startswith("cuda"),
    )


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """One parameter each, from the head on, at falling rates."""
    named = list(model.named_parameters())[::-1]
    return [{"params": [p], "lr": LR * MULT**i, "name": f"{i:02d}_{name}"} for i, (name, p) in enumerate(named)]


def bare_steps(setting: Setting, **options: Any) -> Iterator[None]:
    """The plainest loop: one group, one rate, no tracking, the loss never looked at. Endless, one step each."""
    device = setting.device
    model = network(setting).to(device)
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, **options)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=setting.precision == "bf16")
    model.train()
    batches = loader(setting)
    while True:
        for inputs, labels in batches:
            optimizer.zero_grad()
            with autocast:
                scores = model(inputs.to(device, non_blocking=True))
                found = loss(scores, labels.to(device, non_blocking=True))
            found.backward()
            optimizer.step()
            yield


def bare(setting: Setting) -> None:
    """`bare_steps` with the fused kernel, for as many steps as the others."""
    _bare(setting, fused=True)


def bare_default(setting: Setting) -> None:
    """The same with the kernel that torch takes by default."""
    _bare(setting)


def _bare(setting: Setting, **options: Any) -> None:
    steps = bare_steps(setting, **options)
    for _ in range(setting.epochs * setting.steps_per_epoch):
        next(steps)


def lwexp(setting: Setting, *more: str) -> None:
    """`python -m lwexp.run`, evaluation, pictures and checkpoints included; they are outside of the measured steps."""
    sys.argv = [
        "lwexp.run", "model=timm", f"model.name={setting.model}", "grouping=per_parameter", "policy=cosine",
        "optimizer=adam", f"lr={LR}", f"mult={MULT}", f"epochs={setting.epochs}", f"batch_size={setting.batch_size}",
        f"data.image_size={setting.image_size}", "data.augment=false", f"data.workers={setting.workers}",
        f"precision={setting.precision}", "progress=false",
        f"device={setting.device}", f"tracking.uri={setting.uri}", f"hydra.run.dir={setting.folder / 'run'}",
        *more,
    ]  # fmt: skip
    with suppress(SystemExit):
        runpy.run_module("lwexp.run", run_name="__main__", alter_sys=True)


def diagnosed(every_steps: int) -> Callable[[Setting], None]:
    """`lwexp` with every so many steps diagnosed."""
    return lambda setting: lwexp(setting, f"diagnostics.every_steps={every_steps}")


def lightning(setting: Setting) -> None:
    """Lightning's Trainer, LearningRateMonitor at every step, MLFlowLogger."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import MLFlowLogger

    batches = loader(setting)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = network(setting), nn.CrossEntropyLoss()

        def training_step(self, batch: Any, _: int) -> Tensor:
            inputs, labels = batch
            loss: Tensor = self.loss(self.model(inputs), labels)
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(groups(self.model), fused=True)
            scheduler = CosineAnnealingLR(optimizer, setting.epochs * len(batches))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    Trainer(
        precision="bf16-mixed" if setting.precision == "bf16" else "32-true",
        accelerator="gpu" if setting.device.startswith("cuda") else "cpu",
        devices=1,
        max_epochs=setting.epochs,
        logger=MLFlowLogger("benchmark", tracking_uri=setting.uri),
        callbacks=[LearningRateMonitor(logging_interval="step")],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=setting.folder,
    ).fit(Module(), batches)


def ignite(setting: Setting) -> None:
    """pytorch-ignite's supervised trainer, its MLflow logger with OptimizerParamsHandler and OutputHandler."""
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers.mlflow_logger import MLflowLogger, OptimizerParamsHandler, OutputHandler
    from ignite.handlers.param_scheduler import LRScheduler

    if setting.precision != "fp32":
        raise SystemExit("the contestant ignite is written for fp32")
    batches, model = loader(setting), network(setting).to(setting.device)
    optimizer = torch.optim.Adam(groups(model), fused=True)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), setting.device, non_blocking=True)
    cosine = LRScheduler(CosineAnnealingLR(optimizer, setting.epochs * len(batches)))
    trainer.add_event_handler(Events.ITERATION_STARTED, cosine)
    logger = MLflowLogger(tracking_uri=setting.uri)
    logger.attach(trainer, OptimizerParamsHandler(optimizer), Events.ITERATION_STARTED)
    output = OutputHandler("training", output_transform=lambda loss: {"loss": loss})
    logger.attach(trainer, output, Events.ITERATION_COMPLETED)
    trainer.run(batches, max_epochs=setting.epochs)
    logger.close()


def huggingface(setting: Setting) -> None:
    """transformers' Trainer with its MLflow callback; it logs one rate, so the others are added to what it logs."""
    os.environ |= {"MLFLOW_TRACKING_URI": setting.uri, "MLFLOW_EXPERIMENT_NAME": "benchmark"}
    from transformers import Trainer, TrainingArguments

    data = images(setting)

    class Samples(Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return setting.steps_per_epoch * setting.batch_size

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            inputs, labels = data[index]
            return {"inputs": inputs, "labels": labels}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = network(setting), nn.CrossEntropyLoss()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": self.loss(self.model(inputs), labels)}

    class AllRates(Trainer):
        def log(self, logs: dict[str, float], *arguments: Any) -> None:
            rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
            super().log({**logs, **rates}, *arguments)

    model = Model()
    if setting.device.startswith("cuda"):
        model.to(setting.device)
    optimizer = torch.optim.Adam(groups(model.model), fused=True)
    scheduler = CosineAnnealingLR(optimizer, setting.epochs * setting.steps_per_epoch)
    AllRates(
        model,
        TrainingArguments(
            str(setting.folder / "trainer"),
            per_device_train_batch_size=setting.batch_size,
            num_train_epochs=setting.epochs,
            bf16=setting.precision == "bf16",
            dataloader_num_workers=setting.workers,
            max_grad_norm=0.0,  # no clipping, as with the others
            dataloader_drop_last=True,
            logging_steps=1,
            report_to="mlflow",
            save_strategy="no",
            use_cpu=not setting.device.startswith("cuda"),
            disable_tqdm=True,
        ),
        train_dataset=Samples(),
        optimizers=(optimizer, scheduler),
    ).train()


CONTESTANTS: dict[str, tuple[Callable[[Setting], None], tuple[str, ...]]] = {  # with the packages that it needs
    "bare": (bare, ()),
    "bare default": (bare_default, ()),
    "lwexp": (lwexp, ()),
    "lwexp diagnosed 1": (diagnosed(1), ()),
    "lwexp diagnosed 10": (diagnosed(10), ()),
    "lwexp diagnosed 100": (diagnosed(100), ()),
    "lightning": (lightning, ("lightning",)),
    "ignite": (ignite, ("ignite",)),
    "huggingface": (huggingface, ("transformers", "accelerate")),
}
