"""Which module may import which: the table of packages, third-party packages, circles, and the size of files.

Every import statement counts, also inside functions and under `TYPE_CHECKING`, and so does `import_module("…")`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

EVERYTHING = {
    "errors", "formatting", "redaction", "tasks", "host", "core", "config", "distributed", "data", "models", "tracking",
    "plots", "record", "training", "experiment", "sweep", "report", "cli", "inference", "integrations",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {  # from the ground up; a module may also import its own package
    "errors": set(),
    "formatting": set(),
    "redaction": set(),
    "tasks": set(),
    "host": {"errors", "formatting"},
    "core": {"errors", "formatting"},
    "integrations": {"errors", "formatting", "core"},
    "config": {"errors", "formatting", "redaction", "tasks", "core"},
    "distributed": {"errors", "formatting", "host", "core"},
    "data": {"errors", "formatting", "tasks", "host", "config", "distributed"},
    "models": {"errors", "formatting", "host", "core", "config", "data"},
    "tracking": {"errors", "formatting", "redaction", "host", "config"},
    "plots": {"errors", "formatting", "core"},
    "record": {"errors", "formatting", "host", "core", "config", "distributed", "tracking", "plots"},
    "training": {"errors", "formatting", "tasks", "host", "core", "distributed", "data", "tracking", "record"},
    "experiment": {
        "errors", "formatting", "redaction", "tasks", "host", "core", "config", "distributed", "data", "models",
        "tracking", "plots", "record", "training",
    },
    "inference": {
        "errors", "formatting", "tasks", "host", "config", "data", "models", "tracking", "training", "experiment",
    },
    "sweep": {
        "errors", "formatting", "redaction", "tasks", "host", "config", "tracking", "training", "experiment",
        "inference",
    },
    "report": {"errors", "formatting", "redaction", "tasks", "config", "tracking", "plots"},
    "cli": {
        "errors", "formatting", "redaction", "host", "config", "models", "distributed", "training", "experiment",
        "sweep",
    },
    # the public interface
    "lwexp": {"__main__", "errors", "formatting", "core", "plots", "record", "training", "inference", "cli"},
}  # fmt: skip
COMMANDS = {  # they may import anything
    "__main__", "run", "preview", "find", "study", "ui", "sync", "predict", "export", "evaluate", "report.__main__",
    "report.command",
}  # fmt: skip
HYDRA = {"cli", "config", "sweep", *COMMANDS}
NETWORKS = {"models", "data", "config.hub"}
THIRD_PARTY: dict[str, set[str]] = {  # packages or modules that may import it
    "mlflow": {"tracking"},
    "tensorboard": {"tracking"},
    "wandb": {"tracking"},
    "hydra": HYDRA,
    "omegaconf": HYDRA,
    "pydantic": {"config", "sweep"},
    "matplotlib": {"plots", "report"},
    "timm": {*NETWORKS, "integrations.timm", "core.optim.registry", "core.depth.description"},
    "torchvision": NETWORKS,
    "transformers": {*NETWORKS, "integrations.transformers", "inference.serving"},  # the last works without lwexp
    "accelerate": {"integrations.accelerate"},
    "lightning": {"integrations.lightning"},
    "fastai": {"integrations.fastai"},
    "joblib": {"sweep", "host.resources"},  # scikit-learn brings it
    "submitit": {"sweep"},
    "ray": {"sweep"},
    "optuna": {"sweep"},
}

# Violations of today. The list may only shrink: one that is gone must be struck out.
KNOWN: dict[str, set[str]] = {}
KNOWN_CIRCLES: set[str] = set()  # modules that import themselves through others
KNOWN_LONG: set[str] = set()
KNOWN_BRIEF: set[str] = set()  # their docstring has yet to be written


@dataclass(frozen=True)
class Import:
    """`module` imports `target` (a module of lwexp without its first name, or a package of others) at `where`."""

    module: str
    target: str
    ours: bool
    where: str
    names: str  # as written

    @property
    def pair(self) -> str:
        return f"{self.module} -> {self.target}"

    def __str__(self) -> str:
        return f"{self.where}: {self.names}"


def name_of(path: Path) -> str:
    """The module's name below lwexp; "lwexp" is the package itself."""
    parts = path.relative_to(ROOT / "lwexp").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "lwexp"


FILES = {name_of(path): path for path in sorted((ROOT / "lwexp").rglob("*.py"))}


def named(node: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """Full dotted names that a statement imports, and what is taken from each."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ("lwexp." + module).removesuffix(".lwexp").split(".") if module != "lwexp" else ["lwexp"]
            up = node.level - (FILES[module].name == "__init__.py")
            base = ".".join([*package[: len(package) - up], *([base] if base else [])])
        yield from ((base, alias.name) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "import_module":
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
            yield first.value, ""


@cache
def imports() -> list[Import]:
    """All imports of all modules, without those of the standard library."""
    found: dict[Import, None] = {}  # each once, in the order of the files
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for base, name in named(node, module):
                where, written = f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node)  # type: ignore[attr-defined]
                ours = base.partition(".")[0] == "lwexp"
                if ours:
                    inner = base.partition(".")[2]
                    deeper = f"{inner}.{name}".strip(".")
                    target = deeper if deeper in FILES else inner or "lwexp"
                    assert target in FILES, f"{where}: {written} imports no module of lwexp"
                else:
                    target = base.partition(".")[0]
                if ours or target not in sys.stdlib_module_names:
                    found[Import(module, target, ours, where, written)] = None
    return list(found)


def within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def unexpected(found: list[Import], rule: str) -> None:
    """Fail for each violation that `KNOWN` does not list, and for each listed one that is gone."""
    known = KNOWN.get(rule, set())
    fresh = [str(one) for one in found if one.pair not in known]
    assert not fresh, "\n".join(["not allowed:", *fresh])
    gone = known - {one.pair for one in found}
    assert not gone, f"no longer violated, strike them out of KNOWN[{rule!r}]: {sorted(gone)}"


def test_every_package_has_its_place_in_the_table() -> None:
    top = {module.partition(".")[0] for module in FILES} - COMMANDS
    assert top == set(ALLOWED) & top, f"not in ALLOWED: {sorted(top - set(ALLOWED))}"
    assert all(places <= EVERYTHING | {"__main__"} for places in ALLOWED.values())


def test_a_module_imports_only_its_own_package_and_lower_ones() -> None:
    """The table `ALLOWED`; commands may import anything."""
    found = []
    for one in imports():
        package, target = one.module.partition(".")[0], one.target.partition(".")[0]
        if one.ours and one.module not in COMMANDS and target not in {package, *ALLOWED[package]}:
            found.append(one)
    unexpected(found, "layers")


def test_a_package_of_others_is_imported_where_it_belongs() -> None:
    """The table `THIRD_PARTY`, for instance mlflow in lwexp/tracking alone."""
    table = THIRD_PARTY.items()
    unexpected([i for i in imports() for name, places in table if i.target == name and not within(i.module, places)],
               "third party")  # fmt: skip


def test_the_core_imports_torch_alone() -> None:
    allowed = {"torch", "timm", "typing_extensions"}  # the last comes with torch
    found = [i for i in imports() if within(i.module, {"core"}) and not i.ours and i.target not in allowed]
    unexpected(found, "core")


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: {i.target for i in imports() if i.ours and i.module == module} for module in FILES}

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            module = waiting.pop()
            if module not in found:
                found.add(module)
                waiting += graph[module]
        return found

    all_reached = {module: reached(module) for module in graph}
    circular = {module for module in graph if module in all_reached[module]}
    new = sorted(circular - KNOWN_CIRCLES)
    edges = [str(i) for i in imports() if i.ours and i.module in new and i.module in all_reached[i.target]]
    assert not new, "\n".join(["these imports are part of a circle:", *edges])
    assert circular >= KNOWN_CIRCLES, f"strike out of KNOWN_CIRCLES: {sorted(KNOWN_CIRCLES - circular)}"


PRIVATE = {  # names that others keep to themselves and that lwexp uses nevertheless: what each is needed for
    "os._exit": "public in spite of its name",
    "timm.models._manipulate.group_with_matcher": "timm's own order of layers",
    "torch._C._dynamo.guards.TensorGuards": "dtypes, sizes and strides of many tensors in one call",
    "torch.optim._muon.muon": "the update of torch.optim.Muon, for filters as matrices",
    "torch._foreach_addcmul_": "one kernel for many tensors",
    "torch._foreach_copy_": "one kernel for many tensors",
    "torch._foreach_norm": "one kernel for many tensors",
    "torch._foreach_sub": "one kernel for many tensors",
    "torch._foreach_sub_": "one kernel for many tensors",
    "torch._fused_adam_": "torch's fused kernels, with a rate for each group",
    "torch._fused_adamw_": "torch's fused kernels, with a rate for each group",
    "torch._fused_sgd_": "torch's fused kernels, with a rate for each group",
    "torch.nn.modules._functions.SyncBatchNorm": "batch norm with the statistics of all ranks",
    "torch.nn.modules.batchnorm._BatchNorm": "what all batch norms have in common",
    "torch.utils._python_dispatch.TorchDispatchMode": "sees each operation on meta tensors",
    "torch.utils._pytree.tree_map": "tensors within outputs of any form",
    "hydra._internal.utils.get_args_parser": "Hydra's flags, as Hydra reads them",
}


def reaches(tree: ast.AST, module: str) -> Iterator[tuple[ast.AST, str]]:
    """What a module takes with a leading underscore: by an import, or through an imported package."""
    roots = set()
    for node in ast.walk(tree):
        for base, name in named(node, module):
            if isinstance(node, ast.Import):
                roots.add(base.partition(".")[0])
            yield node, f"{base}.{name}".strip(".")
    for node in ast.walk(tree):
        written = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if written.partition(".")[0] in roots and written.replace(".", "_").isidentifier():
            yield node, written


def test_no_private_name_is_used_from_another_module() -> None:
    """A leading underscore says that a name belongs to its module; the table `PRIVATE` has the exceptions."""
    found = {}
    for module, path in FILES.items():
        for node, name in reaches(ast.parse(path.read_text(encoding="utf-8")), module):
            if any(part.startswith("_") and not part.startswith("__") for part in name.split(".")):
                found[name] = f"{path.relative_to(ROOT)}:{node.lineno}: {name}"  # type: ignore[attr-defined]
    fresh = [where for name, where in found.items() if name not in PRIVATE]
    assert not fresh, "\n".join(["private:", *fresh])
    assert not PRIVATE.keys() - found.keys(), f"strike out of PRIVATE: {sorted(PRIVATE.keys() - found.keys())}"


LONG = {"tracking/delivery.py", "tracking/journal.py", "models/build.py"}  # one concept each


def test_files_are_short() -> None:
    """One concept, one module: up to 300 lines in lwexp/, 420 in tests/."""
    too_long = set()
    for folder, limit in (("lwexp", 300), ("tests", 420)):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > limit and path.relative_to(ROOT / folder).as_posix() not in LONG:
                too_long.add(path.relative_to(ROOT).as_posix())
    assert not too_long - KNOWN_LONG, f"too long: {sorted(too_long - KNOWN_LONG)}"
    assert not KNOWN_LONG - too_long, f"strike out of KNOWN_LONG: {sorted(KNOWN_LONG - too_long)}"


@pytest.mark.parametrize("package", sorted({name for name in FILES if FILES[name].name == "__init__.py"}))
def test_a_package_says_what_it_is_for_what_it_imports_and_where_to_begin(package: str) -> None:
    """Three sentences in the docstring of its `__init__.py`; a package within a package may do with one."""
    text = ast.get_docstring(ast.parse(FILES[package].read_text(encoding="utf-8"))) or ""
    sentences = sum(text.count(mark) for mark in (". ", ".\n", "; ")) + text.endswith(".")
    enough = sentences >= (1 if "." in package or package == "lwexp" else 3)
    assert enough != (package in KNOWN_BRIEF), f"strike it out of KNOWN_BRIEF: {package}" if enough else text
