"""torchvision's image classification datasets by class name, with their own splits."""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from torch import Tensor

from lwexp.errors import ConfigError, RunError, UnknownNameError
from lwexp.formatting import one_line

from .cache import stats_of
from .contents import Contents, files_of, labels_digest, sizes_of
from .images import CorruptImageError, PILStore
from .source import SPLIT_NAMES, DataSource, Split, SplitName
from .splits import stratified_cut
from .standalone import as_mode
from .torchvision_labels import classes_of, labels_of, stable_order
from .torchvision_layouts import LAYOUTS, Arguments, SetLayout

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from lwexp.config.data_schema import TorchvisionConfig

# Constructor arguments that `data.options` may not have, and why
_RESERVED = {
    "root": "write data.root",
    "download": "write data.download",
    "transform": "lwexp preprocesses the images",
    "target_transform": "lwexp makes the labels",
    "transforms": "lwexp preprocesses the images",
    "loader": "lwexp decodes the images",
    "target_type": "the labels are the set's classes",
    "target_types": "the labels are the set's classes",
}
_DOWNLOAD_TIMEOUT_SECONDS = 30.0  # per read; a server that does not answer would block forever


def open_torchvision(config: TorchvisionConfig) -> DataSource:
    """Open `data.dataset` below `data.root`; a missing validation split is cut from train, stratified.

    Raises `ConfigError` for a dataset that torchvision does not have, that is not image classification, that is missing
    on disk (and `data.download` is false), and for unknown options; `RunError` for a failed download.
    """
    name = config.dataset
    kind, layout = _look_up(name)
    parameters = _parameters(kind)
    _check_options(config, kind, layout, parameters)
    channels, image_size = layout.channels, layout.image_size
    if name == "FakeData":
        channels, image_size = _fake_shape(config)

    stores, found = {}, {}
    for split in SPLIT_NAMES:
        arguments: Arguments | None = getattr(layout, split)
        if arguments is None:
            continue
        dataset, labels = _open(config, kind, parameters, arguments)
        if labels is not None:
            made_with = [config.options, arguments]
            stores[split] = SetStore(dataset, name, config.root, channels, made_with, {split: labels})
            found[split] = labels
    if "train" not in found or not len(found["train"]):
        raise ConfigError("data.root", config.root, f"{name} has no training images there")

    names, old = classes_of(stores["train"].images, layout, torch.cat(list(found.values())))
    if len(names) == 1:
        raise ConfigError("data.dataset", name, f"a single class only ({names[0]}); there is nothing to classify")
    new = torch.empty(int(old.max()) + 1, dtype=torch.int64)
    new[old] = torch.arange(len(old))
    splits: dict[SplitName, Split] = {}
    for split, labels in found.items():
        order = stable_order(stores[split].images, layout, new[labels])
        splits[split] = Split(stores[split], order, new[labels][order])
    cut_splits: list[SplitName] = [] if "val" in splits else ["val"]
    if cut_splits:
        train = splits["train"]
        kept, cut = stratified_cut(train.labels, config.val_fraction, config.split_seed)
        splits["train"] = Split(train.store, train.positions[kept], train.labels[kept])
        splits["val"] = Split(train.store, train.positions[cut], train.labels[cut])
    return DataSource(
        splits,
        classes=names,
        channels=channels,
        image_size=config.image_size or image_size,
        style=layout.style,
        cut=cut_splits,
    )


class SetStore(PILStore):
    """The images of a torchvision dataset, without its transforms and labels."""

    def __init__(
        self, images: Any, name: str, root: str, channels: int, made_with: Any, labels: Mapping[str, Tensor]
    ) -> None:
        """`images[position]` is (PIL image, label); `made_with`: arguments of its constructor, for the cache.

        `labels`: of all images by the name of torchvision's split, int64 [n].
        """
        super().__init__(channels)
        self.images, self._name, self._root, self._made_with = images, name, root, made_with
        self._labels = labels

    def identity(self, positions: Sequence[int]) -> str:
        """The constructor's arguments, and all files in the folder: only torchvision knows which are used."""
        folder = Path(getattr(self.images, "root", None) or os.devnull)
        files = sorted(os.path.join(here, name) for here, _, names in os.walk(folder) for name in names)  # noqa: PTH118
        return f"{self._name} {self._made_with} {list(positions)} {stats_of(files)}"

    def contents(self) -> Contents:
        """Names and sizes of the files of the images; the labels, where torchvision keeps many images in a file."""
        files = files_of(self.images)
        if files:
            return sizes_of(str(Path(self._root).expanduser()), files)
        return {split: labels_digest(labels) for split, labels in self._labels.items()}

    def load(self, position: int, channels: int) -> PILImage:
        """Decode one image."""
        try:
            image: PILImage = self.images[position][0]
            return as_mode(image, channels)
        except Exception as error:  # Pillow's decoders raise many types
            raise CorruptImageError.of("data.root", self._root, f"{position} of {self._name}", error) from error


def _look_up(name: str) -> tuple[type[Any], SetLayout]:
    from torchvision import datasets

    available = [known for known in LAYOUTS if hasattr(datasets, known)]
    if name in available:
        return getattr(datasets, name), LAYOUTS[name]
    if name in ("ImageFolder", "DatasetFolder"):
        raise ConfigError("data.dataset", name, "write data=image_folder data.path=… for folders of images")
    if name in datasets.__all__:
        why = f"not an image classification set; {len(available)} are: {', '.join(available)}"
        raise ConfigError("data.dataset", name, why)
    lower = {known.lower(): known for known in available}
    if name.lower() in lower:
        raise ConfigError("data.dataset", name, f"did you mean {lower[name.lower()]}?")
    raise UnknownNameError("data.dataset", name, available, "torchvision has no such data set")


def _parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The constructor's parameters, with those of parent classes that get its `**kwargs`."""
    found: dict[str, inspect.Parameter] = {}
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        own = dict(inspect.signature(vars(parent)["__init__"]).parameters)
        kinds = {parameter.kind for parameter in own.values()}
        found.update({name: p for name, p in own.items() if name not in found and p.kind is p.POSITIONAL_OR_KEYWORD})
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    found.pop("self", None)
    return found


def _check_options(
    config: TorchvisionConfig, kind: type[Any], layout: SetLayout, parameters: dict[str, inspect.Parameter]
) -> None:
    free = [name for name in parameters if name not in _RESERVED and name not in layout.train]
    for option, value in config.options.items():
        if option in parameters and option in layout.train:
            raise ConfigError(f"data.options.{option}", value, "lwexp opens all splits; leave it out")
        if option in parameters and option in _RESERVED:
            raise ConfigError(f"data.options.{option}", value, _RESERVED[option])
        if option not in free:
            raise UnknownNameError("data.options", option, free, f"{config.dataset} has no such option")
    for name in free:
        if parameters[name].default is inspect.Parameter.empty and name not in config.options:
            choices = f"; choices: {', '.join(kind.splits)}" if hasattr(kind, "splits") else ""
            raise ConfigError(f"data.options.{name}", "???", f"{config.dataset} needs it{choices}")


def _open(
    config: TorchvisionConfig, kind: type[Any], parameters: dict[str, inspect.Parameter], arguments: Arguments
) -> tuple[Any, Tensor | None]:
    """The dataset with `arguments`, downloaded if enabled, and its labels."""
    given: dict[str, Any] = {**config.options, **arguments}
    if "root" in parameters:
        given["root"] = str(Path(config.root).expanduser())
    downloads = "download" in parameters
    if downloads:
        given["download"] = config.download  # always: one dataset downloads by default
    elif config.download and "root" in parameters:
        raise ConfigError("data.download", True, f"torchvision cannot download {config.dataset}")
    try:
        with _socket_timeout(), _download_lock(config):
            dataset = kind(**given)
        return dataset, labels_of(dataset)
    except (ValueError, TypeError) as error:
        if downloads and config.download and not config.options:  # no longer available for download
            raise ConfigError("data.download", True, _line(error)) from error
        raise ConfigError("data.options", config.options, f"{config.dataset}: {_line(error)}") from error
    except ImportError as error:
        raise ConfigError("data.dataset", config.dataset, f"needs a package: {_line(error)}") from error
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        if "pip install" in str(error):  # an optional package of this dataset
            raise ConfigError("data.dataset", config.dataset, _line(error)) from error
        if downloads and config.download:
            raise RunError(
                f"data.download=True: {config.dataset} could not be downloaded to {config.root}: {_line(error)}"
            ) from error
        hint = "; add data.download=true to fetch it" if downloads else ""
        raise ConfigError("data.root", config.root, f"no {config.dataset} there ({_line(error)}){hint}") from error


@contextlib.contextmanager
def _download_lock(config: TorchvisionConfig) -> Iterator[None]:
    """Lock for downloading: one process downloads, the others wait and find the files."""
    if not config.download:
        yield
        return
    root = Path(config.root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{config.dataset}.lock"):
        yield


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: BaseException) -> str:
    """The text of `error` on one line, without torchvision's advice (the option is `data.download` here)."""
    text = one_line(error, limit=None)
    for advice in ("You can use download=True to download it", "You can set download=True to download it"):
        text = text.replace(advice, "")
    return text.strip().rstrip(".")


def _fake_shape(config: TorchvisionConfig) -> tuple[int, int | None]:
    """Number of channels and side of FakeData's images."""
    shape = config.options.get("image_size", (3, 224, 224))
    whole = isinstance(shape, list | tuple) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    if not whole or shape[0] not in (1, 3):
        raise ConfigError("data.options.image_size", shape, "must be [channels, height, width] with 1 or 3 channels")
    return shape[0], max(shape[1:])
