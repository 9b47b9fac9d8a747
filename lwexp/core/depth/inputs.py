"""Inputs that may fit a network: from its own attributes, else from what its first layers take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from .thresholds import (
    BATCH,
    FEATURE_WIDTHS,
    IMAGE_CHANNELS,
    IMAGE_SIDES,
    SEQUENCE,
    SIGNAL_CHANNELS,
    SIGNAL_LENGTHS,
    SQUARE_SIDE,
    VIDEO_CHANNELS,
    VIDEO_SIDES,
)

_IMAGES = ("image", "images", "pixel_values", "img", "imgs")
_TEXTS = ("text", "texts", "input_ids", "tokens", "ids", "caption", "captions")
_LENGTHS = ("context_length", "max_length", "max_seq_len", "block_size")
_EDGES = ("edge_index", "edges")
Input = tuple[str, tuple[Any, ...], dict[str, Any]]


def as_input(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of an input; integers keep their values, since a network may read them (lengths, masks)."""
    if device.type == "meta" and (tensor.is_floating_point() or tensor.is_complex() or tensor.is_meta):
        return torch.empty_like(tensor, device="meta")
    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.detach().to("cpu", copy=True)


def arguments(example: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a user's example input."""
    if isinstance(example, Mapping):
        return (), {str(key): value for key, value in example.items()}
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def guesses(model: nn.Module) -> list[Input]:
    """Inputs that may fit `model`, best first: from its own attributes, then from what its layers take."""
    found: list[Input] = []
    dummy = getattr(model, "dummy_inputs", None)  # as in `transformers`
    if isinstance(dummy, Mapping) and getattr(model, "main_input_name", "input_ids") in dummy:
        found.append(("dummy_inputs", (), dict(dummy)))
        if "decoder_input_ids" in inspect.signature(model.forward).parameters and "decoder_input_ids" not in dummy:
            ids = dummy.get("input_ids", torch.ones(BATCH, SEQUENCE, dtype=torch.long, device="cpu"))
            found.append(("dummy_inputs and decoder_input_ids", (), {**dummy, "decoder_input_ids": ids}))
    modules = list(model.modules())
    channels: dict[type, list[int]] = {kind: _channels(modules, kind) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)}
    if isinstance(dummy, Mapping) and "pixel_values" in inspect.signature(model.forward).parameters:  # text and images
        for shape in _shapes(model, modules, channels):
            images = {"pixel_values": torch.empty(shape, device="meta")}
            found += [(f"dummy_inputs and {list(shape)}", (), {**dummy, **images})] if len(shape) == 4 else []
    vocabularies = [module.num_embeddings for module in modules if isinstance(module, nn.Embedding)]
    tokens = torch.arange(BATCH * SEQUENCE, device="cpu").reshape(BATCH, SEQUENCE) % max(
        1, min(vocabularies, default=1)
    )
    for shape in _shapes(model, modules, channels) if vocabularies and channels[nn.Conv2d] else ():
        found += _by_name(model, torch.empty(shape, device="meta"), min(vocabularies)) if len(shape) == 4 else []
    images_first = any(channels.values())
    if vocabularies and not images_first:
        found.append(_for_all(model, f"token ids {list(tokens.shape)}", tokens))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for shape in _shapes(model, modules, channels):
        # On the meta device; zeros in a pass with real numbers.
        found.append(_for_all(model, f"{list(shape)}", torch.empty(shape, dtype=dtype, device="meta")))
    if vocabularies and images_first:
        found.append(_for_all(model, f"token ids {list(tokens.shape)}", tokens))
    return found


def _by_name(model: nn.Module, images: torch.Tensor, vocabulary: int) -> list[Input]:
    """Images and texts together for a `forward` with arguments of such names; texts of several lengths."""
    names = [name.lower() for name in inspect.signature(model.forward).parameters]
    pictures = [name for name in names if name in _IMAGES]
    texts = [name for name in names if name in _TEXTS]
    if not pictures or not texts:
        return []
    found: list[Input] = []
    lengths = [SEQUENCE, *(value for key, value in vars(model).items() if key in _LENGTHS and isinstance(value, int))]
    for length in dict.fromkeys(reversed(lengths)):
        ids = torch.arange(BATCH * length, device="cpu").reshape(BATCH, length) % max(1, vocabulary)
        text = f"{pictures[0]}={list(images.shape)} and {texts[0]}={list(ids.shape)}"
        found.append((text, (), {pictures[0]: images, texts[0]: ids}))
    return found


def _for_all(model: nn.Module, text: str, tensor: torch.Tensor) -> Input:
    """`tensor` for every required positional argument of `model`, except lengths and masks of sequences."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(model.forward).parameters.values()
    names = [p.name.lower() for p in given if p.kind in kinds and p.default is inspect.Parameter.empty][1:]
    values, texts = [tensor], [text]
    for name in names:
        if "len" in name and tensor.dim() > 1:
            values.append(torch.full((tensor.shape[0],), tensor.shape[1], device="cpu"))
            texts.append("lengths")
        elif name in _EDGES:  # of a graph whose nodes are the rows
            values.append(torch.arange(2 * SEQUENCE, device="cpu").reshape(2, SEQUENCE) % tensor.shape[0])
            texts.append("edges")
        elif "mask" in name:
            values.append(torch.ones(tensor.shape[:2], dtype=torch.bool, device="cpu"))
            texts.append("a mask")
        else:
            values.append(tensor)
            texts.append(text)
    return " and ".join(texts), tuple(values), {}


def _shapes(
    model: nn.Module, modules: Sequence[nn.Module], channels: Mapping[type, list[int]]
) -> list[tuple[int, ...]]:
    """Shapes of inputs, best first: the size in timm's config or in the patch embedding, then by kind of layer."""
    found: list[tuple[int, ...]] = []
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if size:
        embedded = getattr(getattr(model, "patch_embed", None), "img_size", None)
        for side in [embedded, size[1:]]:
            counts = [*channels[nn.Conv2d][:1], size[0]]
            found += [(BATCH, count, *side) for count in counts if isinstance(side, (tuple, list))]
    for count in channels[nn.Conv2d][:IMAGE_CHANNELS]:
        found += [(BATCH, count, side, side) for side in IMAGE_SIDES]
    for count in channels[nn.Conv3d][:VIDEO_CHANNELS]:
        found += [(BATCH, count, SEQUENCE, side, side) for side in VIDEO_SIDES]
    for count in channels[nn.Conv1d][:SIGNAL_CHANNELS]:
        found += [(BATCH, count, length) for length in SIGNAL_LENGTHS]
        found += [(BATCH, SIGNAL_LENGTHS[-1])] if count == 1 else []
    for width in _widths(modules, at_most=FEATURE_WIDTHS):
        found += [(BATCH, SEQUENCE, width), (BATCH, width)]
        side = math.isqrt(width)
        found += [(BATCH, 1, side, side)] if side * side == width and side > SQUARE_SIDE else []
    return list(dict.fromkeys(found)) or [(BATCH, SEQUENCE), (BATCH, SEQUENCE, SEQUENCE), (BATCH, 3, 64, 64)]


def _channels(modules: Sequence[nn.Module], kind: type[nn.Module]) -> list[int]:
    """Input channels of convolutions of `kind`: of the first one registered, then 3 and 1, then all others."""
    counts = [int(cast(Any, module).in_channels) for module in modules if isinstance(module, kind)]
    likely = dict.fromkeys([counts[0], 3, 1, *sorted(set(counts))]) if counts else {}
    return [count for count in likely if count]  # 0: lazy


def _widths(modules: Sequence[nn.Module], at_most: int) -> list[int]:
    """The first distinct numbers of input features among `modules`."""
    widths: dict[int, None] = {}
    for module in modules:
        if len(widths) == at_most:
            break
        for attribute in ("input_size", "embed_dim", "in_features", "normalized_shape", "num_features"):
            # `getattr` of a missing attribute is slow for modules.
            known = attribute in module.__dict__ or hasattr(type(module), attribute)
            width = getattr(module, attribute, None) if known else None
            if isinstance(width, tuple) and len(width) == 1:
                width = width[0]
            if isinstance(width, int) and width > 0:
                widths[width] = None
                break
    return list(widths)
