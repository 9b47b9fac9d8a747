"""Opens the data source of the config's data section."""

from __future__ import annotations

from lwexp.config.data_schema import DataConfig, DigitsConfig, ImageFolderConfig, TextConfig
from lwexp.errors import ConfigError

from .source import DataSource


def open_data(config: DataConfig, model: str | None = None) -> DataSource:
    """Scan, check and split the data of `config`. Images are decoded later, when a batch needs them.

    `model`: hub name or folder of a text model, whose tokenizer is used unless `config` names another.

    Raises `ConfigError` for data that is missing, empty or contradicts itself, `RunError` for a failed download.
    """
    if isinstance(config, DigitsConfig):
        from .digits import open_digits

        return open_digits(config)
    if isinstance(config, ImageFolderConfig):
        from .image_folder import open_image_folder

        return open_image_folder(config)
    if isinstance(config, TextConfig):
        try:
            from .text import open_text

            return open_text(config, model)
        except ImportError as error:
            if error.name not in ("transformers", "tokenizers"):
                raise
            raise ConfigError("data", "text", "needs transformers: pip install 'lwexp[huggingface]'") from None
    from .torchvision_sets import open_torchvision

    return open_torchvision(config)
