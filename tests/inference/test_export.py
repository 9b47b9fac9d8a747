"""`python -m lwexp.export`: files that other programs read, with the network's own results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

import lwexp
from lwexp.inference.exporting import difference, example_inputs
from tests.helpers.commands import RunHere
from tests.inference.test_load import TEXTS, reviews, run
from tests.run.runs import SMALL


def test_an_onnx_file_computes_the_same_for_any_batch_and_says_its_classes(lwexp_here: RunHere) -> None:
    folder = run(lwexp_here, *SMALL)
    ended = lwexp_here("export", str(folder), "--to", "onnx", "-o", "out/net.onnx")
    assert ended.code == 0, ended.err
    assert "largest difference to the network" in ended.out
    loaded, session = lwexp.load(folder), onnxruntime.InferenceSession("out/net.onnx")
    images = torch.rand(5, 1, 8, 8)
    (found,) = session.run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(found), loaded.outputs(images), atol=1e-5)
    stored = {prop.key: prop.value for prop in onnx.load("out/net.onnx").metadata_props}
    beside = json.loads(Path("out/net.onnx.json").read_text())
    assert json.loads(stored["classes"]) == beside["classes"] == list("0123456789")
    assert json.loads(stored["preprocessing"])["image_size"] == 8


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.* is deprecated:FutureWarning")
@pytest.mark.parametrize("to", ["torch_export", "torchscript"])
def test_texts_of_any_length_go_through_a_file_of_torch(lwexp_here: RunHere, to: str) -> None:
    reviews(Path("reviews.csv"))
    folder = run(lwexp_here, *TEXTS)
    assert lwexp_here("export", str(folder), "--to", to, "-o", "net").code == 0
    loaded = lwexp.load(folder)
    extra: dict[str, Any] = {"lwexp.json": ""}
    if to == "torch_export":
        found: Any = torch.export.load("net", extra_files=extra).module()
    else:
        found = torch.jit.load("net", _extra_files=extra)  # type: ignore[no-untyped-call]
    facts = json.loads(extra["lwexp.json"])
    assert facts["classes"] == ["bad", "good"]
    assert facts["max_length"] == 16
    ids, mask = example_inputs(loaded, 4, 11)
    assert (
        difference(lambda *both: loaded.outputs(dict(zip(facts["inputs"], both, strict=True))), found, (ids, mask))
        < 1e-5
    )  # type: ignore[arg-type]
    assert Path("net.tokenizer/tokenizer.json").is_file()


def test_a_network_that_cannot_be_exported_is_one_line(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "my_branch.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, num_classes), nn.Linear(64, num_classes)\n"
        "    def forward(self, x):\n"
        "        x = x.flatten(1)\n"
        "        return self.a(x) if float(x.sum()) > 0 else self.b(x)\n"
    )
    folder = run(lwexp_here, "model=custom", "model._target_=my_branch.Net", "data.image_size=8", "max_steps=2",
                 "progress=false", "decay=none")  # fmt: skip
    ended = lwexp_here("export", str(folder), "--to", "torch_export", "--allow-target", "my_branch.Net")
    assert ended.code == 1
    assert "lwexp-export: the network cannot be exported by torch.export: " in ended.err
    assert "Traceback" not in ended.err
    assert not list(Path().glob("*.pt2*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "onnxx"], "--to=onnxx: no such format; did you mean onnx?"),
        (["more"], "give one run"),
        (["--weights", "worst"], "weights=worst: must be best, last, wise_ft"),
    ],
    ids=["format", "runs", "weights"],
)
def test_a_mistake_is_one_line(lwexp_here: RunHere, words: list[str], message: str) -> None:
    ended = lwexp_here("export", "latest", *words)
    assert ended.code == 2
    assert message in ended.err


def test_a_missing_extra_is_named(lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
    from lwexp.inference import formats

    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else True)
    ended = lwexp_here("export", "latest")
    assert (ended.code, ended.err) == (
        2, "lwexp-export: --to=onnx: needs onnxscript: pip install 'lwexp[export]'\n",
    )  # fmt: skip
