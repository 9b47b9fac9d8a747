"""A run's data, opened: those that it trains on, and all of which they are a part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.data_schema import ImageFolderConfig, ImageTableConfig, TextConfig, TorchvisionConfig
from lwexp.config.schema import NetworkConfig, RunConfig
from lwexp.config.weights_schema import LettersConfig, SourceTaskConfig
from lwexp.errors import ConfigError

if TYPE_CHECKING:
    from lwexp.data import CacheSettings, DataSource
    from lwexp.distributed.world import World


def open_training_data(config: RunConfig, base: Path) -> DataSource:
    """What a run trains on and is evaluated on: the classes that it learns, as many samples as it may see."""
    from lwexp.data import half_of_classes

    source = open_whole_data(config, base)
    if isinstance(config.weights, SourceTaskConfig):
        source = half_of_classes(source, "target", config.weights.split_seed)
    if isinstance(config.weights, LettersConfig) and (source.info.kind != "image" or source.info.ready):
        what = "texts" if source.info.kind != "image" else "tensors, preprocessed already"
        raise ConfigError("weights", "letters", f"are for a network of images; the data are {what}")
    if config.data.train_size is not None:
        source = source.with_train(config.data.train_size, config.seed)
    return source


def open_whole_data(config: RunConfig | NetworkConfig, base: Path) -> DataSource:
    """The data with all its classes."""
    from lwexp.data import open_data

    model = config.model.name if config.model.source == "huggingface" else None
    return open_data(based(config.data, base), model)


def download_once(config: RunConfig, base: Path, world: World) -> None:
    """Have rank 0 alone download what the data need."""
    if world.size > 1 and isinstance(config.data, TorchvisionConfig):
        world.on_rank_zero(lambda: bool(open_whole_data(config, base)))


def cache_settings(config: RunConfig, base: Path, passes: float) -> CacheSettings | None:
    """Where and when decoded images are kept; None for data that are in memory. `passes` as in `CacheSettings`."""
    from lwexp.data import CacheSettings

    if not isinstance(config.data, (ImageFolderConfig, ImageTableConfig, TorchvisionConfig)):
        return None
    return CacheSettings(base / "outputs" / "cache", config.data.cache, passes)


def based(data: Any, base: Path) -> Any:
    """The data section with its folders relative to where the command was started.

    `dataset` may be a folder or a name of the hub.
    """
    if isinstance(data, ImageFolderConfig):
        return data.model_copy(update={"path": str(base / Path(data.path).expanduser())})
    if isinstance(data, TorchvisionConfig):
        return data.model_copy(update={"root": str(base / Path(data.root).expanduser())})
    if isinstance(data, (TextConfig, ImageTableConfig)):
        given = {key: getattr(data, key, None) for key in ("path", "root", "dataset")}
        folders = {key: base / Path(value).expanduser() for key, value in given.items() if value is not None}
        if "dataset" in folders and not folders["dataset"].is_dir():
            del folders["dataset"]
        return data.model_copy(update={key: str(folder) for key, folder in folders.items()})
    return data
