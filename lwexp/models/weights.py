"""Loads weights by name from a checkpoint of any origin, and reports what was loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lwexp.errors import ConfigError, UnknownNameError

from .blueprint import parameters_among
from .weights_file import NESTS, Inert, executes_code, read_file, state_dict_at, state_dicts
from .weights_match import AS_IT_IS, NameIndex, Renaming, resized


@dataclass(frozen=True)
class LoadReport:
    """Result of `load_checkpoint`, by the model's names; `unexpected` has the file's. `str` lists all of them."""

    path: Path
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # not in the file: keep their values
    unexpected: tuple[str, ...]  # not in the model
    dropped: tuple[str, ...]  # the head: keeps its values
    place: str = ""  # where in the file the weights are, with dots
    renaming: Renaming = AS_IT_IS  # from the file's names to the model's
    resized: tuple[str, ...] = ()  # tensors of another size in the file, as `name [old shape] -> [new shape]`

    def new_names(self, model: nn.Module) -> frozenset[str]:
        """The parameters of `model` that were not loaded."""
        return parameters_among(model, (*self.missing, *self.dropped))

    def __str__(self) -> str:
        """One line with the count of loaded tensors, and one for each kind of key that was not loaded."""
        parts = [f"{len(self.loaded)} tensors loaded from {self.path.name}"]
        parts += [f"under {self.place}"] if self.place else []
        parts += [f"without the prefix {self.renaming.old}"] if self.renaming.old else []
        parts += [f"as {self.renaming.new}*"] if self.renaming.new else []
        lines = [", ".join(parts)]
        lines += [f"{len(self.resized)} resized: {', '.join(self.resized)}"] if self.resized else []
        for names, what in (
            (self.dropped, "head tensors not loaded, randomly initialized"),
            (self.missing, "missing in the file, randomly initialized"),
            (self.unexpected, "of the file not in the model, ignored"),
        ):
            if names:
                lines.append(f"{len(names)} {what}: {', '.join(names)}")
        return "\n".join(lines)


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    strict: bool = False,
    drop_head: bool = False,
    key: str = "weights.path",
    place: str | None = None,
    prefix: str | None = None,
) -> LoadReport:
    """Copy the weights of the file at `path` into `model` by name; the head is not loaded if classes differ in number.

    `place`: dotted keys that lead to the weights in the file, `prefix`: what their names begin with there; None: what
    fits the model best. Position embeddings of another size are resampled.

    `drop_head`: never load the head; `strict`: missing and unexpected keys are errors. With an error nothing is
    changed; a model on the meta device is only compared. Raises `ConfigError` under `key` for a file that cannot be
    read, is of another model, or has a tensor of another shape.
    """
    path = Path(path)
    own = model.state_dict(keep_vars=True)
    renamed, found, renaming = _renamed(read_file(path, key), own, path, key, place=place, prefix=prefix)
    file = resized(renamed, model, own)
    if drop_head:
        head = head_names(model)
        file = {name: tensor for name, tensor in file.items() if name not in head}
    else:
        head = _other_classes(model, file)
    _check_same_model(model, head | {name for name in file if _fits(name, file, own)}, file, path, key)
    wrong = [name for name in file if name in own and name not in head and not _fits(name, file, own)]
    if wrong:
        raise ConfigError(key, path, _mismatch(wrong, file, own))
    matching = {name: tensor for name, tensor in file.items() if name in own and name not in head}
    filled = {id(own[name]) for name in matching}  # by tensor: one of two tied names is enough
    missing = tuple(name for name, tensor in own.items() if id(tensor) not in filled and name not in head)
    unexpected = tuple(name for name in file if name not in own)
    if strict and (missing or unexpected):
        what = {"missing": missing, "unexpected": unexpected}
        raise ConfigError(key, path, "; ".join(f"{kind}: {', '.join(names)}" for kind, names in what.items() if names))
    if not any(tensor.is_meta for tensor in own.values() if isinstance(tensor, Tensor)):
        model.load_state_dict(matching, strict=False)
    changed = [name for name in matching if name in renamed and renamed[name].shape != file[name].shape]
    shapes = tuple(f"{name} {list(renamed[name].shape)} -> {list(file[name].shape)}" for name in changed)
    dropped = tuple(name for name in own if name in head)
    return LoadReport(path, tuple(matching), missing, unexpected, dropped, found, renaming, shapes)


def _renamed(
    content: object, own: Mapping[str, Any], path: Path, key: str, *, place: str | None, prefix: str | None
) -> tuple[dict[str, Tensor], str, Renaming]:
    """The tensors of `content` by the model's names, the place where they are in it, and how they were renamed."""
    if place is None:
        places = state_dicts(content)
        if not places:
            if isinstance(content, Mapping) and any(isinstance(content.get(nest), Inert) for nest in NESTS):
                raise executes_code(path, key)
            raise ConfigError(key, path, "the file holds no named tensors")
    else:
        places = {place: state_dict_at(content, place, path)}
    index, best = NameIndex(own), None
    for found, tensors in places.items():
        file = tensors if prefix is None else _with_prefix(tensors, prefix)
        renamings = [AS_IT_IS] if prefix == "" else index.best_renamings(file)
        count = index.fitting(renamings[0].apply(file))
        if file and (best is None or count > best[0]):
            best = count, found, file, renamings
    if best is None:
        names = sorted({name.partition(".")[0] for tensors in places.values() for name in tensors})
        raise UnknownNameError("weights.prefix", str(prefix), names, f"no name in {path.name} begins with it")
    _, found, file, renamings = best
    if len(renamings) > 1:
        twice = " and ".join(sorted(renaming.old.rstrip(".") or "no prefix" for renaming in renamings))
        raise ConfigError(key, path, f"holds the model's weights more than once, under {twice}; weights.prefix=… picks")
    given = "" if not prefix else f"{prefix.rstrip('.')}."
    return renamings[0].apply(file), found, Renaming(given + renamings[0].old, renamings[0].new)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    start = f"{prefix.rstrip('.')}." if prefix else ""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _fits(name: str, file: Mapping[str, Tensor], own: Mapping[str, Any]) -> bool:
    return name in own and isinstance(own[name], Tensor) and own[name].shape == file[name].shape


def _other_classes(model: nn.Module, file: Mapping[str, Tensor]) -> set[str]:
    """Names of the classifiers that differ from the file's only in their number of outputs.

    In any other layer, another number of outputs also changes the inputs of the next one, which is then a mismatch.
    """
    ids: set[int] = set()
    counts = set()
    for path, layer in _layers(model):
        own = {f"{path}{name}": tensor for name, tensor in layer.named_parameters(recurse=False)}
        differing = [name for name, tensor in own.items() if name in file and file[name].shape != tensor.shape]
        if differing and all(file[name].shape[1:] == own[name].shape[1:] for name in differing):
            ids |= {id(tensor) for tensor in own.values()}
            counts |= {(own[name].shape[0], file[name].shape[0]) for name in differing}
    return _names_of(model, ids) if len(counts) == 1 else set()


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear and convolutional layers, with the prefix of their parameters' names."""
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            yield f"{name}." if name else "", layer


def head_names(model: nn.Module) -> set[str]:
    """Names of the classifier's parameters: timm's `get_classifier()`, else the layer that is used last."""
    from lwexp.core.depth import find_depths

    classifier = getattr(model, "get_classifier", None)
    if callable(classifier):
        parts = classifier()
        parts = parts if isinstance(parts, (tuple, list)) else [parts]
        ids = {id(parameter) for part in parts if isinstance(part, nn.Module) for parameter in part.parameters()}
    else:
        depths = find_depths(model).by_name
        deepest = max(depths.values())
        last = [layer for path, layer in _layers(model) if depths.get(f"{path}weight") == deepest]
        ids = {id(parameter) for parameter in last[-1].parameters()} if last else set()
    return _names_of(model, ids)


def _names_of(model: nn.Module, ids: set[int]) -> set[str]:
    """All names of the parameters with these ids; a tied one has several."""
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in ids}


def _check_same_model(model: nn.Module, found: set[str], file: Mapping[str, Tensor], path: Path, key: str) -> None:
    """Raise `ConfigError` if the file has fewer than half of the model's parameters, with their shapes."""
    every: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        every.setdefault(id(parameter), []).append(name)
    lacking = [names[0] for names in every.values() if not found.intersection(names)]
    if 2 * len(lacking) <= len(every):
        return
    own = dict(model.named_parameters())
    counts = f"{len(every) - len(lacking)} of the model's {len(every)} parameters found"
    others = [name for name in file if name not in found]
    sides = f"the model has {_examples(lacking, own)}; the file {_examples(others, file)}"
    raise ConfigError(key, path, f"is a checkpoint of another model: {counts}; {sides}")


def _examples(names: list[str], tensors: Mapping[str, Tensor], limit: int = 3) -> str:
    shown = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names[:limit])
    return shown + (f", … ({len(names)})" if len(names) > limit else "") if names else "no others"


def _mismatch(wrong: list[str], file: Mapping[str, Tensor], own: Mapping[str, Any]) -> str:
    """The message for tensors of the same name and another shape."""
    first = wrong[0]
    given, wanted = list(file[first].shape), list(own[first].shape)
    if len(wrong) == 1 and len(given) == len(wanted) == 4 and given[:1] + given[2:] == wanted[:1] + wanted[2:]:
        return f"{first} takes {given[1]} channels in the file, the model's takes {wanted[1]}; the data need as many"
    shown = f"{first} is {given} in the file, {wanted} in the model"
    more = f" ({len(wrong)} tensors differ: {', '.join(wrong[:5])}{', …' if len(wrong) > 5 else ''})"
    return f"{shown}{more if len(wrong) > 1 else ''}; another data.image_size or variant of the model"
