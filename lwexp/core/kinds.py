"""Kinds of parameters, so that patterns can say `kind/norm` or `kind/head` in any network.

A parameter has one kind by its module (`head`, `norm`, `embedding`, `qk`, `vo`, `qkv`, `ffn`, `recurrent`, `conv`,
`other`), and may be of others besides: `bias`, `attention` (`qk`, `vo` and `qkv`), and by its place `first_block` and
`last_block`. Types tell norms, embeddings and convolutions; names, as timm, torchvision and transformers give them,
tell attention from the rest. `qkv` is one tensor for queries, keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from lwexp.errors import ConfigError, nearest

from .depth.parameters import unwrap
from .patterns import KIND, NamedSet

KINDS: dict[str, str] = {
    "head": "the classifier: timm's own, what transformers puts on its base model, else the last layer",
    "norm": "weights and biases of norms",
    "embedding": "embeddings of tokens, patches and positions",
    "qk": "projections to queries and keys",
    "vo": "projections to values, and of attention's output",
    "qkv": "one projection to queries, keys and values",
    "ffn": "layers of a block's MLP",
    "recurrent": "RNN, LSTM and GRU layers",
    "conv": "other convolutions",
    "other": "all others",
    "attention": "qk, vo and qkv",
    "bias": "biases of all modules",
    "first_block": "the first block or stage, and all before it",
    "last_block": "the last block or stage",
}
_Value = TypeVar("_Value")

_QK = re.compile(r"(q|k|query|key|to_q|to_k|w?[qk]|[qk]_(proj|lin|attn|linear)|(query|key)_proj|to_qk|qk)")
_V = re.compile(r"(v|value|to_v|wv|v_(proj|lin|attn|linear)|value_proj)")
_FUSED = re.compile(r"(w?qkv|to_qkv|qkv_proj|c_attn|query_key_value|in_proj|kv|to_kv|kv_proj|w_pack)", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_FFN = re.compile(r"mlp|ffn|feed_?forward|densereludense|swiglu|experts?", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|conv_proj|_token$|class_token|relative_position|rel_pos", re.IGNORECASE)
_ADAPTER = re.compile(r"\.(base_layer|lora_[A-Za-z_]+|original_module|modules_to_save)(\.|$)")
_NUMBERED = re.compile(r"^(.*?)[.]?(?<![a-zA-Z])(\d+)\.|^(.*?)\.\w+_l(\d+)(?:_reverse)?$")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Bilinear)


@dataclass(frozen=True)
class Kinds:
    """The parameters of each kind: kind -> names, in the model's order; kinds without any are omitted."""

    names: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, model: nn.Module) -> Kinds:
        """The kinds of all parameters of `model`; no forward pass is needed."""
        inner, prefix = unwrap(model)
        found: dict[str, list[str]] = {}
        modules = dict(inner.named_modules())
        head, blocks = _head(inner), _attention_blocks(modules)
        parameters = [name for name, _ in inner.named_parameters()]
        for name in parameters:
            for kind in _kinds(name, modules, head, blocks):
                found.setdefault(kind, []).append(prefix + name)
        for place, names in _ends([name for name in parameters if name not in head]).items():
            found[place] = [prefix + name for name in names]
        return cls({kind: tuple(found[kind]) for kind in KINDS if found.get(kind)})

    def named(self, patterns: Iterable[str], key: str) -> list[str]:
        """`patterns` with those of kinds as the sets of names that they stand for. Raises `ConfigError`.

        A kind that the model need not have, `kind/qk?`, is dropped where it has none.
        """
        return [self._set(pattern, key) if _is_kind(pattern) else pattern for pattern in patterns if self._has(pattern)]

    def keyed(self, by_pattern: Mapping[str, _Value], key: str) -> dict[str, _Value]:
        """The same for a mapping from patterns."""
        return {
            (self._set(pattern, key) if _is_kind(pattern) else pattern): value
            for pattern, value in by_pattern.items()
            if self._has(pattern)
        }

    def _has(self, pattern: object) -> bool:
        """False for a kind that need not be there and is not."""
        if not _is_kind(pattern) or not str(pattern).endswith("?"):
            return True
        kind = str(pattern).removeprefix(KIND).removesuffix("?")
        return kind not in KINDS or kind in self.names

    def _set(self, pattern: str, key: str) -> NamedSet:
        kind = pattern.removeprefix(KIND).removesuffix("?")
        if kind not in KINDS:
            raise ConfigError(key, pattern, f"no such kind of parameters; {nearest(kind, KINDS)}")
        if not self.names:
            raise ConfigError(key, pattern, "needs the network: plan.bind(model)")
        if kind not in self.names:
            raise ConfigError(key, pattern, f"the model has none; its kinds: {', '.join(self.names)}")
        return NamedSet(pattern, self.names[kind])


NO_KINDS = Kinds({})  # of a plan without its network


def _is_kind(pattern: object) -> bool:
    return isinstance(pattern, str) and pattern.startswith(KIND) and not isinstance(pattern, NamedSet)


def _kinds(name: str, modules: Mapping[str, nn.Module], head: set[str], blocks: set[str]) -> list[str]:
    """All kinds of a parameter."""
    last = name.rpartition(".")[2]
    kind = "head" if name in head else _by_module(name, modules, blocks)
    more = ["attention"] if kind in ("qk", "vo", "qkv") else []
    is_bias = last.startswith("bias") or (last.endswith("_bias") and "position" not in last)
    return [kind, *more, *(["bias"] if is_bias or re.fullmatch(r"bias_[ih]h_l\d+.*", last) else [])]


def _by_module(name: str, modules: Mapping[str, nn.Module], blocks: set[str]) -> str:
    owner, _, last = name.rpartition(".")
    module = modules[owner]
    kind = type(module).__name__.lower()
    path = _ADAPTER.split(f".{owner}", maxsplit=1)[0].strip(".")  # a layer that carries adapters is what it was
    parts = path.split(".")
    if "norm" in kind:
        return "norm"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or any(map(_EMBEDDING.search, (*parts, last))):
        return "embedding"
    attention = next((i for i, part in enumerate(parts) if _ATTENTION.search(part)), None)
    if isinstance(module, nn.MultiheadAttention):
        return _projection("in_proj" if last.startswith("in_proj") else last.split("_")[0])
    if attention is not None and not any(map(_FFN.search, parts[attention:])):
        own = last.removesuffix("_bias") if last.endswith("_bias") else parts[-1]
        return _projection(own if own != parts[attention] or len(parts) > attention + 1 else last)
    if _FUSED.fullmatch(parts[-1]) or _is_lone_projection(path, modules):
        return _projection(parts[-1])
    if isinstance(module, nn.RNNBase) or "rnn" in kind or "lstm" in kind or "gru" in kind:
        return "recurrent"
    if any(map(_FFN.search, parts)) or any(path.startswith(f"{block}.") for block in blocks):
        return "ffn"
    return "conv" if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or "conv2d" in kind else "other"


def _projection(own: str) -> str:
    """The kind of an attention's layer called `own`; what is no projection to queries, keys or values is its output."""
    if _FUSED.fullmatch(own):
        return "qkv"
    return "qk" if _QK.fullmatch(own) else "vo"


def _is_lone_projection(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the module is one of several projections side by side, in a parent with a name of its own."""
    parent, _, own = path.rpartition(".")
    if not (_QK.fullmatch(own) or _V.fullmatch(own)) or parent not in modules:
        return False
    beside = [name for name, _ in modules[parent].named_children()]
    return any(map(_V.fullmatch, beside)) and sum(bool(_QK.fullmatch(name)) for name in beside) > 1


def _attention_blocks(modules: Mapping[str, nn.Module]) -> set[str]:
    """Paths of the modules that hold an attention beside other layers: a transformer's blocks."""
    found = set()
    for path in modules:
        parent, _, own = path.rpartition(".")
        is_first = _ATTENTION.search(own) and not any(map(_ATTENTION.search, parent.split(".")))
        if parent and is_first and "norm" not in type(modules[path]).__name__.lower():
            found.add(parent)
    return found


def _head(model: nn.Module) -> set[str]:
    """Names of the classifier's parameters."""
    classifier, base = getattr(model, "get_classifier", None), getattr(model, "base_model_prefix", "")
    if callable(classifier):
        parts = classifier()
        owned = [
            part for part in (parts if isinstance(parts, (tuple, list)) else [parts]) if isinstance(part, nn.Module)
        ]
        ids = {id(parameter) for part in owned for parameter in part.parameters()}
        return {name for name, parameter in model.named_parameters() if id(parameter) in ids}
    if isinstance(base, str) and base and isinstance(getattr(model, base, None), nn.Module):
        own = {name for name, _ in model.named_parameters() if not name.startswith(f"{base}.")}
        if own:
            return own
    layers = [path for path, module in model.named_modules() if isinstance(module, _LAYERS)]
    last = next((path for path in reversed(layers) if not _ADAPTER.search(f".{path}")), None)
    return (
        set() if last is None else {n for n, _ in model.named_parameters() if n.startswith(f"{last}." if last else "")}
    )


def _ends(names: list[str]) -> dict[str, list[str]]:
    """The parameters of the first block and all before it, and of the last block.

    Blocks are numbered modules (`blocks.0`, `encoder.layer.3`) or layers of an RNN; where several modules hold numbered
    ones (`layer1` to `layer4`), each of them is a stage. A network without any has neither.
    """
    places = {name: place for name in names if (place := _place(name))}
    containers = list(dict.fromkeys(container for container, _ in places.values()))
    stages = [container for container in containers if container[-1:].isdigit()]
    if len(stages) > 1:  # layer1, layer2, …
        of = {name: container for name, (container, _) in places.items() if container in stages}
    else:
        counts = {c: len({number for own, number in places.values() if own == c}) for c in containers}
        largest = max(containers, key=counts.__getitem__, default="")
        of = {name: number for name, (container, number) in places.items() if container == largest}
    order = list(dict.fromkeys(of.values()))
    if len(order) < 2:
        return {}
    until = max(i for i, name in enumerate(names) if of.get(name) == order[0])
    first = [name for name in names[: until + 1] if of.get(name, order[0]) == order[0]]
    return {"first_block": first, "last_block": [name for name in names if of.get(name) == order[-1]]}


def _place(name: str) -> tuple[str, str] | None:
    """The module that numbers others, and the number of the one that has this parameter."""
    match = _NUMBERED.search(name)
    return None if match is None else (match[1] or match[3] or "", match[2] or match[4])
