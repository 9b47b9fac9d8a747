"""A small recurrent classifier that reads an image as a sequence of its rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwexp.config.schema import ModelConfig
from lwexp.core.options import at_least, between, check_options
from lwexp.errors import ConfigError

from .blueprint import Blueprint, ModelRequest, Variant


class LSTMClassifier(nn.Module):
    """Rows of an image, top to bottom, through `lstm`; the last layer's final state through `head`.

    Each row is one step of the sequence with `in_chans * img_size` values. `dropout` (from 0 to below 1) acts between
    the layers and before the head. Long short-term memory: Hochreiter and Schmidhuber, 1997.
    """

    def __init__(
        self,
        *,
        in_chans: int,
        img_size: int,
        num_classes: int,
        hidden_size: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        """Raise `ConfigError` for sizes below 1 and a dropout outside [0, 1)."""
        super().__init__()
        at_least("model.hidden_size", hidden_size, 1)
        at_least("model.num_layers", num_layers, 1)
        between("model.dropout", dropout, 0, 1)
        self.lstm = nn.LSTM(
            in_chans * img_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,  # torch warns where there is no next layer
            bidirectional=bidirectional,
        )
        self.directions = 2 if bidirectional else 1
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * self.directions, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of `images` [N, in_chans, H, img_size]; H may be any length."""
        rows = images.transpose(1, 2).flatten(2)  # [N, H, in_chans * img_size]
        _, (states, _) = self.lstm(rows)  # [num_layers * directions, N, hidden_size]
        last = torch.cat(tuple(states[-self.directions :]), dim=1)
        logits: Tensor = self.head(self.dropout(last))
        return logits


def lstm_blueprint(config: ModelConfig, request: ModelRequest) -> Blueprint:
    """The classifier above, for images. Raises `ConfigError` for options that it does not have."""
    if config.name not in (None, "lstm"):
        raise ConfigError("model.name", config.name, "there is only one lstm; remove the name")
    found = {"in_chans": request.channels, "num_classes": request.classes}
    function = LSTMClassifier.__init__
    checked = check_options(function, {**config.options, **found, "img_size": 1}, "model")
    options = {name: checked[name] for name in config.options}

    def variants(size: int) -> list[Variant]:
        return [Variant(request.channels, {**found, "img_size": size})]

    return Blueprint("model", "lstm", 32, options, variants, LSTMClassifier)
