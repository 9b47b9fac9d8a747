"""Opens the data source of the config's data section."""

from __future__ import annotations

from lwexp.config.data_schema import (
    CustomDataConfig,
    DataConfig,
    DigitsConfig,
    ImageFolderConfig,
    ImageTableConfig,
    TextConfig,
)
from lwexp.errors import ConfigError

from .source import DataSource


def open_data(config: DataConfig, model: str | None = None, *, whole: bool = False) -> DataSource:
    """Scan, check and split the data of `config`. Images are decoded later, when a batch needs them.

    `model`: hub name or folder of a text model, whose tokenizer is used unless `config` names another.

    `whole`: data to evaluate on. Of tables, sets of the datasets library and the user's own datasets nothing is cut
    off, and a single class is enough; a table needs no training split.

    Raises `ConfigError` for data that is missing, empty or contradicts itself, `RunError` for a failed download.
    """
    if whole and isinstance(config, (ImageTableConfig, CustomDataConfig)):
        config = config.model_copy(update={"val_fraction": 0.0, "test_fraction": 0.0})
    if isinstance(config, DigitsConfig):
        from .digits import open_digits

        return open_digits(config)
    if isinstance(config, ImageFolderConfig):
        from .image_folder import open_image_folder

        return open_image_folder(config)
    if isinstance(config, ImageTableConfig):
        if (config.path is None) == (config.dataset is None):
            raise ConfigError("data.path", config.path, "give either data.path or data.dataset")
        if config.path is not None:
            from .image_table import open_image_table

            return open_image_table(config, whole=whole)
        from .image_library import open_image_library

        return open_image_library(config, whole=whole)
    if isinstance(config, CustomDataConfig):
        from .custom import open_custom

        return open_custom(config, whole=whole)
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
