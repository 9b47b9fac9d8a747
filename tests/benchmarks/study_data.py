"""Data of the study's controls: photographs under a shift of the input, and labels that say nothing.

    python tests/benchmarks/study_data.py images clothing clothing_inverted --shift inverted
    python tests/benchmarks/study_data.py images clothing clothing_shuffled --shift shuffled
    python tests/benchmarks/study_data.py text trec trec_shuffled

`images` reads `<split>/<class>/<image>` and writes the same files; `text` reads a CSV file with a column `label`, or a
folder of them. The same command writes the same files: what is drawn depends on a file's name, or on `--seed`.

- `blur`: a Gaussian with a radius of `--amount` pixels (2); `noise`: normal, with a standard deviation of `--amount` of
  255 (40); `inverted`: 255 minus each value.
- `shuffled`: within the training and within the validation part, labels are permuted, so all classes keep their sizes.
  Test labels stay as they are: whatever is learned, on them it is worth what a guess is. With `--test` they are
  permuted as well.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

from PIL import Image, ImageChops, ImageFilter, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TEST = {"test"}


def blurred(image: Image.Image, name: str, radius: float) -> Image.Image:
    """Blurred by a Gaussian of `radius` pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def noisy(image: Image.Image, name: str, sigma: float) -> Image.Image:
    """With normal noise of its own in each value, drawn from `name`."""
    normal = NormalDist(128, sigma)
    quantiles = bytes(min(255, max(0, round(normal.inv_cdf((i + 0.5) / 256)))) for i in range(256))
    width, height = image.size
    noise = Image.frombytes("RGB", image.size, random.Random(name).randbytes(3 * width * height).translate(quantiles))
    return ImageChops.add(image, noise, offset=-128)


def inverted(image: Image.Image, name: str, amount: float) -> Image.Image:
    """With the colours of its negative."""
    return ImageOps.invert(image)


SHIFTS = {"blur": (blurred, 2.0), "noise": (noisy, 40.0), "inverted": (inverted, 0.0)}


def shifted(source: Path, target: Path, shift: str, amount: float | None) -> int:
    """Write every image of `source` under the shift; returns their number."""
    change, usual = SHIFTS[shift]
    files = images_in(source)
    for path in files:
        name = path.relative_to(source)
        with Image.open(path) as image:
            changed = change(image.convert("RGB"), name.as_posix(), usual if amount is None else amount)
        written = target / name
        written.parent.mkdir(parents=True, exist_ok=True)
        changed.save(written, **({"quality": 95} if name.suffix.lower() in {".jpg", ".jpeg"} else {}))
    return len(files)


def shuffled(source: Path, target: Path, seed: int, *, test: bool) -> int:
    """Write every image of `source` as it is, in the folder of another's class; returns their number."""
    files = images_in(source)
    for split in sorted({path.relative_to(source).parts[0] for path in files}):
        own = [path for path in files if path.relative_to(source).parts[0] == split]
        classes = permuted([path.parent.name for path in own], split, seed, test=test)
        for path, name in zip(own, classes, strict=True):
            # two classes may have files of the same name
            written = target / split / name / f"{path.parent.name}_{path.name}"
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_bytes(path.read_bytes())
    return len(files)


def shuffled_table(source: Path, target: Path, seed: int, *, test: bool) -> int:
    """Write the CSV file with its labels permuted; returns the number of its rows."""
    with source.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or ())
    if "label" not in columns:
        raise SystemExit(f"error: {source} has no column 'label': {', '.join(columns)}")
    labels = permuted([row["label"] for row in rows], source.stem, seed, test=test)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "label": label} for row, label in zip(rows, labels, strict=True))
    return len(rows)


def permuted(labels: Sequence[str], split: str, seed: int, *, test: bool) -> list[str]:
    """The labels in an order drawn from seed and split; those of the test split as they are unless `test`."""
    mixed = list(labels)
    if test or split not in TEST:
        random.Random(f"{seed} {split}").shuffle(mixed)
    return mixed


def images_in(folder: Path) -> list[Path]:
    """The images in `<split>/<class>/`, sorted."""
    found = sorted(path for path in folder.glob("*/*/*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"error: {folder} has no images in <split>/<class>/")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, what in {"images": "a folder <split>/<class>/<image>", "text": "a CSV file, or a folder of them"}.items():
        given = kinds.add_parser(kind, help=what)
        given.add_argument("source", type=Path)
        given.add_argument("target", type=Path)
        given.add_argument("--seed", type=int, default=0, help="of shuffled labels")
        given.add_argument("--test", action="store_true", help="shuffle the test labels as well")
        if kind == "images":
            given.add_argument("--shift", required=True, choices=[*SHIFTS, "shuffled"])
            given.add_argument("--amount", type=float, help="radius of blur (2), sigma of noise (40)")
    options = parser.parse_args(arguments)
    if options.target.exists():
        raise SystemExit(f"error: {options.target} exists")
    if options.kind == "text":
        tables = sorted(options.source.glob("*.csv")) if options.source.is_dir() else [options.source]
        goals = [options.target / path.name if options.source.is_dir() else options.target for path in tables]
        count = sum(shuffled_table(*pair, options.seed, test=options.test) for pair in zip(tables, goals, strict=True))
    elif options.shift == "shuffled":
        count = shuffled(options.source, options.target, options.seed, test=options.test)
    else:
        count = shifted(options.source, options.target, options.shift, options.amount)
    print(f"{count:,} {'rows' if options.kind == 'text' else 'images'} in {options.target}")


if __name__ == "__main__":
    sys.exit(main())
