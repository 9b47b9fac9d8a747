"""Small recurrent classifiers: of an image, read as a sequence of its rows, and of a text."""

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
        self.lstm = _lstm(in_chans * img_size, hidden_size, num_layers, dropout, bidirectional=bidirectional)
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


class LSTMTextClassifier(nn.Module):
    """The words of a text, first to last, through `embedding` and `lstm`; the state after the last through `head`.

    Words have `hidden_size` features. `dropout` (from 0 to below 1) also acts before the first layer.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        pad_token_id: int,
        num_classes: int,
        hidden_size: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        """Raise `ConfigError` for sizes below 1, a dropout outside [0, 1) and a text read backwards."""
        super().__init__()
        if bidirectional:
            raise ConfigError("model.bidirectional", True, "is for images: backwards, padding would come before a text")
        at_least("model.hidden_size", hidden_size, 1)
        self.embedding = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.lstm = _lstm(hidden_size, hidden_size, num_layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [N, num_classes] of int64 `input_ids` [N, T]; `attention_mask` [N, T] is 0 where they are padding."""
        states, _ = self.lstm(self.dropout(self.embedding(input_ids)))  # [N, T, hidden_size]
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (attention_mask * positions).argmax(dim=1)  # what follows a text does not reach its last state
        final = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)
        logits: Tensor = self.head(self.dropout(final))
        return logits


def _lstm(features: int, size: int, layers: int, dropout: float, *, bidirectional: bool = False) -> nn.LSTM:
    at_least("model.hidden_size", size, 1)
    at_least("model.num_layers", layers, 1)
    between("model.dropout", dropout, 0, 1)
    return nn.LSTM(
        features,
        size,
        layers,
        batch_first=True,
        dropout=dropout if layers > 1 else 0.0,  # torch warns where there is no next layer
        bidirectional=bidirectional,
    )


def lstm_blueprint(config: ModelConfig, request: ModelRequest) -> Blueprint:
    """The classifier above that reads such data. Raises `ConfigError` for options that it does not have."""
    if config.name not in (None, "lstm"):
        raise ConfigError("model.name", config.name, "there is only one lstm; remove the name")
    tokens, found = request.tokens, {"num_classes": request.classes}
    network: type[nn.Module] = LSTMClassifier if tokens is None else LSTMTextClassifier
    if tokens is None:
        found |= {"in_chans": request.channels, "img_size": 1}
    else:
        found |= {"vocab_size": tokens.vocabulary, "pad_token_id": tokens.pad_id}
    checked = check_options(network.__init__, {**config.options, **found}, "model")
    options = {name: checked[name] for name in config.options}

    def variants(size: int) -> list[Variant]:
        return [Variant(request.channels, {**found, "img_size": size} if tokens is None else found)]

    return Blueprint("model", "lstm", 32, options, variants, network)
