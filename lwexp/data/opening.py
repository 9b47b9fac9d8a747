"""From the config's data section to a data source."""

from __future__ import annotations

from lwexp.config import DigitsConfig, ImageFolderConfig, TorchvisionConfig

from .source import DataSource


def open_data(config: DigitsConfig | ImageFolderConfig | TorchvisionConfig) -> DataSource:
    """Open what `config` names: scan, check and split it. Images are decoded later, when a batch needs them.

    Raises `ConfigError` for data that is missing, empty or contradicts itself, `RunError` for a failed download.
    """
    if isinstance(config, DigitsConfig):
        from .digits import open_digits

        return open_digits(config)
    if isinstance(config, ImageFolderConfig):
        from .image_folder import open_image_folder

        return open_image_folder(config)
    from .torchvision_sets import open_torchvision

    return open_torchvision(config)
