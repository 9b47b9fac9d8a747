"""Plan every model of timm on the meta device in each grouping, and compare depths with timm's own description.

    python tests/benchmarks/depth_of_timm.py [--models 'resnet*'] [--jobs 2] [--json rows.json]

One row for each family (timm's module): models, distinct structures (module classes and names of parameters), planned
in every grouping, partition law held, `auto` and `execution` against timm's `group_matcher`, seconds for a model.
"same": the same partition in the same order; "finer", "coarser": the same order; "ordered": no two parameters in
opposite order, yet some boundary moved; "opposite": two parameters swapped. No weights, no network.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import hashlib
import json
import multiprocessing
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

VERDICTS = ("same", "finer", "coarser", "ordered", "opposite")
GROUPINGS: tuple[tuple[str, dict[str, str]], ...] = (
    ("per_parameter", {}),
    ("top_module", {}),
    ("depth_index", {"source": "auto"}),
    ("depth_index", {"source": "execution"}),
)
SLOW = 60.0  # seconds for one model
LIMIT = 600.0  # seconds for its forward pass: depths are looked at here, not the time they take under load
_BY_STAGE = "described by stage, ours by block"
_OWN_LAYER = "a single layer among blocks has a number of its own in the description; ours joins the block it feeds"
_MISSED = "what the description misses between the last block and the head falls to the head"
_POOLED = "a layer after pooling is described with the last block; ours with the head"
REASONS = {  # why `execution` and the description differ, where they do
    "cait": "class-attention blocks are described before the last blocks they follow (the description's error)",
    "coat": "position encodings shared by all blocks of a stage; parallel branches share a depth",
    "cpubone": _BY_STAGE,
    "crossvit": "a patch embedding of several layers for each branch counts as a block",
    "cspnext": "spatial pyramid pooling of several layers counts as a block",
    "davit": _BY_STAGE,
    "deepseek_vit": "the aligner after the last block is the head, for want of another",
    "densenet": "transitions are described with the block before; ours with the block they feed. " + _MISSED,
    "dla": "described by the first branching of each tree, ours by block",
    "efficientformer": _BY_STAGE,
    "efficientformer_v2": _BY_STAGE,
    "efficientvim": "norms of each stage's output are used after that stage, described at the end",
    "fasternet": _POOLED,
    "fastvit": "a stem of several blocks. " + _MISSED,
    "gcvit": _BY_STAGE,
    "ghostnet": _POOLED,
    "hrnet": "transitions are described with the stage before; ours with the one they feed",
    "iformer": _OWN_LAYER,
    "inception_resnet_v2": "first convolutions and reductions have numbers of their own in the description",
    "inception_v3": "first convolutions have numbers of their own in the description",
    "inception_v4": "first convolutions have numbers of their own in the description",
    "legacy_xception": "separable convolutions after the last block are described together",
    "lowformer": "a layer between the last block and the head is described with the head",
    "maxxvit": _BY_STAGE,
    "mvitv2": _BY_STAGE,
    "nasnet": "stem cells are described with the stem; ours are blocks",
    "pnasnet": "stem cells are described with the stem; ours are blocks",
    "pvt_v2": _BY_STAGE,
    "qwen3_vit": "the merger after the last block is the head, for want of another",
    "rdnet": "described by groups of dense blocks, ours by dense block",
    "regnet": _MISSED,
    "repghost": _POOLED,
    "rexnet": _OWN_LAYER,
    "selecsls": "its module `head` has a number of its own in the description; ours is one with the classifier",
    "starnet": _OWN_LAYER,
    "twins": "position encodings in the middle of a stage",
    "vgg": "numbered by place in the Sequential, norms apart; the classifier's layers together",
    "vision_transformer_hybrid": "the convolutional backbone is described as the stem, ours by block",
    "vision_transformer_sam": _MISSED,
    "volo": _OWN_LAYER,
    "xception": "separable convolutions after the last block are described together",
}
EARLY = "used early, but missed by the description, so with the head in it: "


def compare(found: Mapping[str, int], reference: Mapping[str, int]) -> str:
    """The verdict on depths by name against others of the same names."""
    theirs, ours = defaultdict(set), defaultdict(set)
    for name, depth in reference.items():
        theirs[depth].add(found[name])
        ours[found[name]].add(depth)
    deepest = -1
    for depth in sorted(theirs):
        if min(theirs[depth]) < deepest:
            return "opposite"
        deepest = max(deepest, *theirs[depth])
    finer, coarser = all(len(d) == 1 for d in ours.values()), all(len(d) == 1 for d in theirs.values())
    return "same" if finer and coarser else "finer" if finer else "coarser" if coarser else "ordered"


def moved(found: Mapping[str, int], reference: Mapping[str, int], limit: int = 3) -> list[str]:
    """Examples of parameters that are apart from most of those at the same depth of `reference`."""
    together = defaultdict(list)
    for name, depth in reference.items():
        together[depth].append(found[name])
    usual = {depth: Counter(depths).most_common(1)[0][0] for depth, depths in together.items()}
    away = {}
    for name, depth in reference.items():
        if found[name] != usual[depth]:
            away.setdefault((depth, found[name]), f"{name} {found[name] - usual[depth]:+d}")
    return list(away.values())[:limit]


def structure_of(model: Any) -> str:
    """A digest of the classes and names of a model's modules and parameters; widths do not matter."""
    modules = [(path, type(module).__name__) for path, module in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return hashlib.sha1(repr((modules, parameters)).encode()).hexdigest()


def build(name: str) -> Any:
    """timm's model on the meta device, where to draw weights without values would take a third of all the time."""
    import timm
    import torch

    with torch.device("meta"), mock.patch("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor):
        return timm.create_model(name)


def look(name: str, claims: Path | None = None) -> dict[str, Any]:
    """Everything about one model, as a row.

    With `claims`, an empty folder that several processes share, only "model" and "structure" of a model whose structure
    another one has that was looked at before.
    """
    with contextlib.ExitStack() as sharing:
        return _looked(name, sharing, claims)


def _looked(name: str, sharing: contextlib.ExitStack, claims: Path | None) -> dict[str, Any]:
    import timm
    import torch
    from timm.models._manipulate import group_with_matcher

    from lwexp.core.depth import description, execution, finding, order
    from lwexp.core.depth.parameters import Names
    from lwexp.core.make_plan import make_plan

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row: dict[str, Any] = {"model": name, "family": timm.models.model_entrypoint(name).__module__.split(".")[-1]}
    try:
        model = build(name)
        row["structure"] = structure_of(model)
        if claims is not None and not _claim(claims / row["structure"]):
            return {key: row[key] for key in ("model", "structure")}
        expected = {parameter for parameter, _ in model.named_parameters()}
        row["planned"], row["law"], row["notes"] = [], [], []
        depths = {}
        start = time.perf_counter()
        # The groupings share one forward pass, so that the whole of timm takes a fraction of an hour.
        passes = functools.lru_cache(lambda _: execution.trace(model, Names.of(model).first, timeout=LIMIT))
        for module in (finding, description, order):
            sharing.enter_context(mock.patch.object(module, "trace", side_effect=lambda *_, **__: passes(None)))
        for grouping, options in GROUPINGS:
            label = " ".join([grouping, *options.values()])
            began = time.perf_counter()
            plan = make_plan(model, grouping=grouping, grouping_options=options)
            row[f"seconds {label}"] = time.perf_counter() - began
            row["planned"].append(label)
            names = [parameter for g in plan.groups for parameter in g.parameter_names]
            if len(names) == len(expected) == len(set(names) & expected) and all(
                g.parameter_names for g in plan.groups
            ):
                row["law"].append(label)
            row["notes"] += [f"{label}: {note}" for note in plan.notes if "holds" not in note]
            if grouping == "depth_index":
                if options["source"] == "auto":
                    row["source"] = plan.notes[0].removeprefix("depth from ")
                depths[options["source"]] = {p: g.depth for g in plan.groups for p in g.parameter_names}
        row["seconds"] = time.perf_counter() - start
        row["depths"] = {source: max(found.values()) + 1 for source, found in depths.items()}
        if hasattr(model, "group_matcher"):
            matcher = model.group_matcher(coarse=False)
            reference = group_with_matcher(model.named_parameters(), matcher, reverse=True)
            row["depths"]["timm"] = max(reference.values()) + 1
            for source, found in depths.items():
                row[source] = compare(found, reference)
            row["execution moved"] = moved(depths["execution"], reference)
            row["auto moved"] = [f"{n} {d - reference[n]:+d}" for n, d in depths["auto"].items() if d != reference[n]]
    except Exception as error:  # a row of the table, whatever it is
        row["error"] = f"{type(error).__name__}: {error}"[:200]
    return row


def _claim(path: Path) -> bool:
    """Whether `path` is made by this call, and was not there."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line for each family, and the totals over models and over distinct structures."""
    rows = list(rows)
    families = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    lines = [
        "family                     models distinct planned law | auto | execution | depths timm/ours | s | differs in"
    ]
    for family in sorted(families):
        lines.append(_line(family, families[family]))
    once = list({row.get("structure", row["model"]): row for row in rows}.values())
    lines += ["", _line("all models", rows), _line("distinct structures", once)]
    for title, counted in (("models", rows), ("distinct structures", once)):
        described = [row for row in counted if "execution" in row]
        for source in ("auto", "execution"):
            verdicts = Counter(row[source] for row in described)
            total = max(1, len(described))
            share = ", ".join(f"{v} {verdicts[v]} ({verdicts[v] / total:.1%})" for v in VERDICTS)
            lines.append(f"{source} against timm's description, {len(described)} {title}: {share}")
    over = [r for r in rows if "timm" in r.get("depths", {}) and r["depths"]["execution"] > 2 * r["depths"]["timm"]]
    lines.append(f"more than twice timm's depths: {_counts(over)}")
    for verdict in ("opposite", "coarser"):
        lines.append(f"execution {verdict}: {_counts(r for r in rows if r.get('execution') == verdict)}")
    lines.append(f"auto not as timm has it: {_counts(r for r in rows if r.get('auto', 'same') != 'same')}")
    lines.append(f"no description: {_counts(r for r in rows if r.get('source') == 'execution')}")
    lines.append(f"registration for want of an input: {_counts(r for r in rows if r.get('source') == 'registration')}")
    lines.append(f"registration is not the order of use: {_counts(r for r in rows if 'registration is' in str(r))}")
    lines += [f"slow: {row['model']} {row['seconds']:.0f} s" for row in rows if row.get("seconds", 0) > SLOW]
    lines += [f"failed: {row['model']}: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines)


def _counts(rows: Iterable[Mapping[str, Any]]) -> str:
    counted = Counter(row["family"] for row in rows)
    return ", ".join(f"{family} {count}" for family, count in sorted(counted.items())) or "none"


def _line(title: str, rows: list[Mapping[str, Any]]) -> str:
    distinct = len({row.get("structure", row["model"]) for row in rows})
    planned = sum(len(row.get("planned", ())) == len(GROUPINGS) for row in rows)
    law = sum(len(row.get("law", ())) == len(GROUPINGS) for row in rows)
    verdicts = [
        " ".join(f"{v} {n}" for v in VERDICTS if (n := sum(row.get(source) == v for row in rows))) or "-"
        for source in ("auto", "execution")
    ]
    depths = [row["depths"] for row in rows if "timm" in row.get("depths", {})]
    ratio = max((d["execution"] / d["timm"] for d in depths), default=0.0)
    example = max(depths, key=lambda d: d["execution"] / d["timm"], default={"timm": 0, "execution": 0})
    seconds = max((row.get("seconds", 0.0) for row in rows), default=0.0)
    why = ""
    if len({row["family"] for row in rows}) == 1 and any(row.get("execution", "same") != "same" for row in rows):
        away = next((row["execution moved"] for row in rows if row.get("execution moved")), [])
        early = next((row["auto moved"] for row in rows if row.get("auto", "same") != "same"), [])
        why = EARLY + "; ".join(early) if early else REASONS.get(rows[0]["family"], "; ".join(away))
    return (
        f"{title:<26} {len(rows):>6} {distinct:>8} {planned:>7} {law:>3} | {verdicts[0]} | {verdicts[1]} | "
        f"{example['timm']}/{example['execution']} (x{ratio:.1f}) | {seconds:.1f} | {why}"
    )


def main() -> None:
    """Go through the models and print the table."""
    import timm

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="*", help="a pattern of timm's names")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="write the rows of all models here")
    given = parser.parse_args()
    names = fnmatch.filter(timm.list_models(), given.models)
    rows = []
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=200) as pool:
        for row in pool.imap_unordered(look, names):
            rows.append(row)
            print(f"\r{len(rows)}/{len(names)} {row['model']:<50}", end="", flush=True)
    print("\r" + " " * 70 + "\r" + table(rows))
    if given.json:
        given.json.write_text(json.dumps(sorted(rows, key=lambda row: row["model"]), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
