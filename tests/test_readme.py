"""The README and its pages are true: Python and commands run, links lead somewhere, the plan is what preview prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, Outcome
from tests.helpers.data_sources import write_images

README = ROOT / "README.md"
PAGES = [README, *sorted(page for folder in ("conf", "lwexp", "tests") for page in (ROOT / folder).rglob("README.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("python -m lwexp.") and "lwexp.ui" not in line
]
TUTORIALS = re.findall(r"^\| [^|`]+ \| `([^|`]+=[^|`]+)` \|$", TEXT, flags=re.MULTILINE)
PHOTOS = ["model=resnet10t", "data=image_folder", "data.path=photos", "data.image_size=32"]
TEXTS = [
    "data=text", "data.path=reviews.csv", "model=huggingface", "model.config_class=BertConfig",
    "model.config={hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16}",
]  # fmt: skip
SHORT = ["max_steps=2", "progress=false", "tracking=none", "batch_size=16"]


def make_data(folder: Path) -> None:
    """What the commands name: photographs by class, a table of them, texts."""
    for split in ("photos/train", "photos/val", "new_photos"):
        for name in ("cat", "dog"):
            write_images(folder / split / name, 16)
    write_images(folder / "my_photos", 3)
    write_images(folder / "pictures", 40)
    rows = [f"pictures/{i:03d}.png,{'cat' if i % 2 else 'dog'},{'a b' if i % 3 else 'b'},{i / 8}" for i in range(40)]
    (folder / "labels.csv").write_text("\n".join(["image,label,tags,weight", *rows]), encoding="utf-8")
    rows = [f"{'a fine' if i % 2 else 'a dull'} film number {i},{i % 2}" for i in range(80)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    (folder / "new.csv").write_text("text\nno label here\n", encoding="utf-8")


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS if "lwexp.run -m" not in line and "lwexp.study" not in line]
)
def test_commands_run(line: str, lwexp_here: Callable[..., Outcome], tmp_path: Path) -> None:
    for _, block in BLOCKS:
        if found := re.match(r"# (my_\w+\.py)\n", block):
            (tmp_path / found[1]).write_text(block, encoding="utf-8")
    _, _, module, *arguments = shlex.split(line.partition("  #")[0])
    arguments = [argument.replace("weights=pretrained", "weights=scratch") for argument in arguments]  # no network here
    make_data(tmp_path)
    if "latest" in arguments:
        data = TEXTS if "--text" in arguments else PHOTOS
        trained = lwexp_here("run", *data, *SHORT)
        assert trained.code == 0, trained.err
        outcome = lwexp_here(module.removeprefix("lwexp."), *arguments)
        assert outcome.code == 0, outcome.err
        return
    # resnet18 is trained elsewhere; the same options on the small LSTM or a short training show that they exist
    short = [*SHORT, "policy.warmup_steps=1"] if "policy.warmup_steps" in line and ".run" in module else SHORT
    short = [*short, "weights.epochs=1"] if "source_task" in line else short
    short = ["batch_size=64", "progress=false"] if ".preview" in module else short
    short = [s.replace("max_steps=2", "max_steps=41") if "step: 40" in line else s for s in short]
    if ".find" in module:
        short, arguments = [*SHORT, "find.steps=30"], [a.replace("resnet18", "resnet10t") for a in arguments]
    small = ["model=resnet10t"] if "model=" not in line and "layer4.1" not in line else []
    small, short = ([], []) if ".sync" in module else (small, short)
    outcome = lwexp_here(module.removeprefix("lwexp."), *arguments, *small, *short)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("line", [line for line in COMMANDS if "lwexp.study" in line])
def test_studies_run(line: str, lwexp_here: Callable[..., Outcome]) -> None:
    _, _, _, *arguments = shlex.split(line.partition("  #")[0])
    few = ["hydra.sweeper.lr=[1e-3]", "hydra.sweeper.widen=0", "hydra.sweeper.seeds=[1]", "weights.epochs=1"]
    outcome = lwexp_here(
        "study", *arguments, *few, "max_steps=1", "progress=false", "tracking=none", "sweep.report=false"
    )
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("options", TUTORIALS)
def test_tutorials_options_give_a_plan(options: str, lwexp_here: Callable[..., Outcome]) -> None:
    outcome = lwexp_here("preview", "model=resnet18", *shlex.split(options))
    assert outcome.code == 0, outcome.err
    assert "resnet" in outcome.out.lower()


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        if not name.startswith("https:"):
            found = page.parent / name if name else page
            assert found.is_file(), target
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            names = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert not anchor or anchor in names, target


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(README)}
    assert not [page for page in PAGES[1:] if page.resolve() not in linked]


def test_no_place_is_left_to_fill_in() -> None:
    assert not re.findall(r"^[A-Z]{4,}$|TODO|TBD", TEXT, flags=re.MULTILINE)


def test_tutorials_are_all_there() -> None:
    assert len(TUTORIALS) == 7
    assert len(COMMANDS) >= 8


def test_printed_plan_is_what_preview_prints(lwexp_here: Callable[..., Outcome]) -> None:
    shown = next(block for language, block in BLOCKS if language == "text" and "plan cecb" in block)
    line = next(line for line in COMMANDS if "lwexp.preview" in line)
    outcome = lwexp_here("preview", *shlex.split(line)[3:])
    assert shown.strip() in outcome.out


def test_ci_calls_the_test_command_word_for_word() -> None:
    (command,) = [line for line in TEXT.splitlines() if line.startswith("python3 -m venv") and "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
