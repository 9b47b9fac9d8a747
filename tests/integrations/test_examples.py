"""The example in the docstring of each adapter runs, and its page shows no other."""

from __future__ import annotations

import re
import textwrap
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import lwexp.integrations
from tests.helpers.commands import ROOT
from tests.helpers.wrapped_networks import seeded_tiny, tiny_batches

NAMES = [path.stem for path in sorted(Path(lwexp.integrations.__path__[0]).glob("*.py")) if path.stem[0] != "_"]
NAMES.remove("settings")


def example(name: str) -> str:
    text = (Path(lwexp.integrations.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
    found = re.search(r"::\n\n(.*?)\"\"\"", text, flags=re.DOTALL)
    assert found is not None
    return textwrap.dedent(found[1])


def given(name: str, folder: Path) -> dict[str, Any]:
    """What an example expects to be there."""
    if name == "lightning":
        from tests.integrations.test_lightning import Module

        return {"module": Module(), "data": tiny_batches()}
    if name == "transformers":
        from transformers import TrainingArguments

        from tests.integrations.test_transformers import network, rows

        return {"model": network(), "arguments": TrainingArguments(str(folder), use_cpu=True), "data": rows()}
    if name == "fastai":
        from fastai.data.core import DataLoaders

        return {"model": seeded_tiny(), "data": DataLoaders(tiny_batches(), tiny_batches(1), device="cpu")}
    return {"model": seeded_tiny(), "data": tiny_batches()}


@pytest.mark.parametrize("name", NAMES)
def test_the_example_trains_every_parameter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name)
        import_module(f"lwexp.integrations.{name}")
        names = {"torch": torch, **given(name, tmp_path)}
        model = names.get("model") or names["module"].model
        for p in model.parameters():
            p.grad = torch.ones_like(p)  # timm's example makes a step only
        before = [p.clone() for p in model.parameters()]
        exec(compile(example(name), name, "exec"), names)
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_the_page_shows_these_examples() -> None:
    page = (ROOT / "lwexp" / "integrations" / "README.md").read_text(encoding="utf-8")
    examples = [example(name).strip() for name in NAMES]
    blocks = [block for block in re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL) if "lwexp.integrations" in block]
    assert all(block.strip() in examples for block in blocks)
