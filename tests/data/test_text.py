"""Texts as data: files, labels, splits, tokens, batches, and each mistake with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lwexp.config.data_schema import TextConfig
from lwexp.data import DataSource, eval_loader, half_of_classes, open_data, to_device, train_loader
from lwexp.errors import ConfigError
from tests.helpers.commands import ROOT, Outcome

pytest.importorskip("transformers")

COLORS, ANIMALS = ("red", "blue", "green", "yellow"), ("cat", "dog", "bird", "horse")
ROWS = [
    (f"The {group[i % 4]} one, and {group[(i + j) % 4]}" + " again" * j, label)
    for i in range(12)
    for j, (group, label) in enumerate(((COLORS, "color"), (ANIMALS, "animal")))
]


def write(path: Path, rows: list[tuple[Any, Any]] = ROWS, columns: tuple[str, str] = ("text", "label")) -> Path:
    """`rows` as the kind of file that the ending of `path` says."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    else:
        mark, quote = (",", '"') if path.suffix == ".csv" else ("\t", "")
        lines = [mark.join(columns), *(f"{quote}{text}{quote}{mark}{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def text(path: Path | None = None, model: str | None = None, **changes: Any) -> DataSource:
    values = {"dataset": None, "subset": None, "text": "text", "label": "label", "tokenizer": None, "workers": 0}
    sizes = {"vocabulary": 100, "max_length": 16, "val_fraction": 0.25, "test_fraction": 0.25, "split_seed": 0}
    config = TextConfig(name="text", path=None if path is None else str(path), **{**values, **sizes, **changes})
    return open_data(config, model)


def refused(path: Path | None, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        text(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def samples(source: DataSource, split: str) -> list[tuple[tuple[int, ...], int]]:
    data = getattr(source.datasets(None, False, 0), split)
    return [(tuple(ids.tolist()), label) for ids, label in (data[i] for i in range(len(data)))]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_the_same_rows_are_the_same_data_whatever_the_file(tmp_path: Path, ending: str) -> None:
    source = text(write(tmp_path / f"words.{ending}"))
    assert source.info.kind == "text"
    assert source.info.classes == ("animal", "color")
    assert source.info.sizes == {"train": 12, "val": 6, "test": 6}
    reference = text(write(tmp_path / "reference.csv"))
    assert samples(source, "train") == samples(reference, "train")


def test_missing_splits_are_cut_stratified_and_by_split_seed_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "words.csv")
    source = text(path)
    for split in ("train", "val", "test"):
        assert torch.bincount(source.labels(split)).tolist() == [source.info.sizes[split] // 2] * 2
    assert samples(source, "val") == samples(text(path), "val")
    assert samples(source, "val") != samples(text(path, split_seed=1), "val")
    assert "test" not in text(path, test_fraction=0.0).info.sizes


def test_files_of_a_folder_are_its_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    write(tmp_path / "dev.csv", ROWS[:4])
    write(tmp_path / "test.jsonl", ROWS[:2])
    assert text(tmp_path).info.sizes == {"train": 24, "val": 4, "test": 2}


def test_whole_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    rows = [(f"word {i}", label) for i in range(4) for label in (10, 9, -1)]
    for ending in ("csv", "jsonl"):
        source = text(write(tmp_path / f"n.{ending}", rows))
        assert source.info.classes == ("-1", "9", "10")


def test_column_names_are_options(tmp_path: Path) -> None:
    path = write(tmp_path / "words.csv", columns=("sentence", "kind"))
    assert text(path, text="sentence", label="kind").info.classes == ("animal", "color")


def test_quotation_marks_are_csvs_and_plain_in_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one, ""two""\nthree",x\nfour,y\n' * 1 + "one,x\nfour,y\n" * 3)
    (tmp_path / "a.tsv").write_text('text\tlabel\n"one two\tx\nfour\ty\n' + "one\tx\nfour\ty\n" * 3)
    for name in ("a.csv", "a.tsv"):
        assert sum(text(tmp_path / name).info.sizes.values()) == 8


def test_the_vocabulary_is_that_of_the_training_texts_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [("known words", 0), ("other words", 1)] * 3)
    write(tmp_path / "val.csv", [("known strangers", 0), ("other words", 1)])
    source = text(tmp_path, test_fraction=0.0)
    tokens = source.info.tokens
    assert tokens is not None
    assert tokens.tokenizer.convert_ids_to_tokens(range(tokens.vocabulary)) == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "words", "known", "other",
    ]  # fmt: skip
    assert samples(source, "val")[0] == ((2, 5, 1, 3), 0)


def test_vocabulary_and_length_are_bounded(tmp_path: Path) -> None:
    source = text(write(tmp_path / "words.csv"), vocabulary=10, max_length=5)
    assert source.info.tokens is not None
    assert source.info.tokens.vocabulary == 10
    assert max(len(ids) for ids, _ in samples(source, "train")) == 5


def test_batches_are_padded_to_their_longest_and_say_where(tmp_path: Path) -> None:
    source = text(write(tmp_path / "words.csv"))
    data = source.datasets(None, False, 0).train
    loader = eval_loader(data, batch_size=5, workers=0, device="cpu")
    seen = 0
    for batch in loader:
        inputs, labels = to_device(batch, "cpu")
        assert isinstance(inputs, dict)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        lengths = [len(data[seen + row][0]) for row in range(len(labels))]
        assert ids.shape == mask.shape == (len(labels), max(lengths))
        assert ids.dtype == mask.dtype == labels.dtype == torch.int64
        assert mask.sum(dim=1).tolist() == lengths
        assert ((ids == 0) == (mask == 0)).all()
        seen += len(labels)
    assert seen == 12


def test_order_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    data = text(write(tmp_path / "words.csv")).datasets(None, False, 0).train

    def epoch(seed: int, number: int, workers: int = 0) -> list[Any]:
        loader = train_loader(data, batch_size=4, seed=seed, workers=workers, device="cpu")
        loader.set_epoch(number)
        return [(inputs["input_ids"].tolist(), labels.tolist()) for inputs, labels in loader]

    assert epoch(0, 1) == epoch(0, 1)
    assert epoch(0, 1) != epoch(0, 2)
    assert epoch(0, 1) != epoch(1, 1)


def test_halves_of_the_classes_keep_the_tokenizer(tmp_path: Path) -> None:
    rows = [(f"word{label} {i}", label) for i in range(6) for label in "abcd"]
    source = text(write(tmp_path / "w.csv", rows))
    halves = [half_of_classes(source, half, seed=0) for half in ("source", "target")]
    assert sorted(c for half in halves for c in half.info.classes) == list("abcd")
    assert all(half.info.tokens is source.info.tokens for half in halves)


def test_sets_of_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["animal", "color"])}
    )
    rows = {"text": [t for t, _ in ROWS], "label": [int(label == "color") for _, label in ROWS]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    secret = datasets.Dataset.from_dict({"text": ["?"], "label": [-1]}, features=features)
    datasets.DatasetDict({"train": whole, "validation": whole, "test": secret}).save_to_disk(tmp_path / "set")
    source = text(None, dataset=str(tmp_path / "set"), test_fraction=0.0)
    assert source.info.classes == ("animal", "color")
    assert source.info.sizes == {"train": 24, "val": 24}
    assert "no such column" in refused(None, dataset=str(tmp_path / "set"), text="txt")


def test_each_mistake_has_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "words.csv")
    assert "there is no such file or folder" in refused(tmp_path / "none.csv")
    assert refused(path, text="txt").startswith("data.text=txt: no such column in words.csv, line 2; did you mean text")
    assert refused(path, label="labels").startswith("data.label=labels: no such column")
    assert "has no train file" in refused(tmp_path)
    assert "give either data.path or data.dataset" in refused(None)
    assert "give either data.path or data.dataset" in refused(path, dataset="imdb")
    assert "leaves nothing to train on" in refused(path, val_fraction=0.6, test_fraction=0.4)
    assert "data.max_length=2: the tokenizer itself adds 2 tokens" in refused(path, max_length=2)
    assert "there is no such folder" in refused(path, tokenizer="./none")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "a.csv holds no texts"),
        ("a.csv", "text,label\n", "a.csv holds no texts"),
        ("a.jsonl", "\n\n", "a.jsonl holds no texts"),
        ("a.csv", "text,label\nx,1\ny,1\n", r"a single class only \(1\)"),
        ("a.csv", "text,label\nx,1,2\n", "line 2, has more fields"),
        ("a.csv", "text,label\nx\n", "line 2, has fewer fields"),
        ("a.csv", "text,label\nx, \n", r"data.label=: is neither a whole number nor a name \(a.csv, line 2\)"),
        ("a.csv", 'text,label\n"x,1\n', "a.csv cannot be read: "),
        ("a.csv", b"text,label\n\xff\xfe,1\n", "a.csv is not UTF-8"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text"\n', "line 2, is not JSON"),
        ("a.jsonl", "[1]\n", "line 1, is not a JSON object"),
        ("a.jsonl", '{"text": 5, "label": 1}\n', "data.text=5: is a int, not a text"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', "data.label=0.5: is neither"),
        ("a.csv", "text,label\nx,a\ny,b\n", "data=2 texts: no class has two"),
        ("a.parquet", "x", "must end in .csv"),
    ],
)
def test_files_that_cannot_be_are_refused(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=said) as caught:
        text(path)
    assert "\n" not in str(caught.value)


def test_a_class_that_train_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    write(tmp_path / "val.csv", [("x", "animl")])
    assert "the class animl of the val split is not in train; did you mean animal?" in refused(tmp_path)


class Bag(nn.Module):
    """A text classifier of a user's own."""

    def __init__(self, vocab_size: int, num_classes: int, pad_token_id: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 8, pad_token_id)
        self.head = nn.Linear(8, num_classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        summed = (self.embedding(input_ids) * attention_mask[..., None]).sum(dim=1)
        return self.head(summed / attention_mask.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("grouping", ["top_module", "depth_index"])
def test_a_network_of_ones_own_learns_from_texts(
    lwexp_here: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouping: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    write(tmp_path / "words.csv", ROWS * 10)
    outcome = lwexp_here(
        "run", "data=text", "data.path=words.csv", "model=custom", "model._target_=tests.data.test_text.Bag",
        "tracking=none", "lr=0.1", "batch_size=16", "epochs=3", "progress=false", f"grouping={grouping}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "test accuracy 100.00%" in outcome.out
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert (folder / "tokenizer" / "tokenizer.json").is_file()


def test_the_lstm_learns_texts(lwexp_here: Callable[..., Outcome], tmp_path: Path) -> None:
    write(tmp_path / "words.csv", ROWS * 10)
    outcome = lwexp_here(
        "run", "data=text", "data.path=words.csv", "model=lstm", "model.hidden_size=16", "grouping=depth_index",
        "tracking=none", "lr=0.03", "batch_size=16", "epochs=6", "progress=false",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "test accuracy 100.00%" in outcome.out
    assert [line.split()[1] for line in outcome.out.splitlines() if line.startswith("    ")][:4] == [
        "head", "lstm.layer1", "lstm.layer0", "embedding",
    ]  # fmt: skip


@pytest.mark.parametrize("model", [["model=resnet18"], ["model=torchvision"]])
def test_models_of_images_refuse_texts(lwexp_here: Callable[..., Outcome], tmp_path: Path, model: list[str]) -> None:
    write(tmp_path / "words.csv")
    outcome = lwexp_here("run", "data=text", "data.path=words.csv", "batch_size=4", "tracking=none", *model)
    assert outcome.code == 2
    assert outcome.err.startswith("error: model=")
    assert "takes images, the data are texts; model=huggingface, lstm or custom can take them" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_texts_with_several_labels_and_with_numbers(tmp_path: Path) -> None:
    rows = [f"word {number},{['warm;loud', 'loud', ''][number % 3]},{number}.5" for number in range(30)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,moods,score", *rows]))
    several = text(tmp_path / "texts.csv", label="moods", delimiter=";")
    assert (several.info.task, several.info.classes) == ("multilabel", ("loud", "warm"))
    assert set(map(tuple, several.labels("train").tolist())) == {(1.0, 1.0), (1.0, 0.0), (0.0, 0.0)}
    numbers = text(tmp_path / "texts.csv", label="score", task="regression")
    assert (numbers.info.task, numbers.info.classes) == ("regression", ("score",))
