"""Find the depths of networks of plain user code, and compare them with the right depths, written by hand.

    python tests/benchmarks/depth_of_networks.py [--set developed|held_out] [--only 'gpt*'] [--verbose]

The networks and their answers are in depth_networks/. Each is read twice: `source=execution` with an example input, and
`source=auto` without. One row for each that is not exact in both, then the counts for each set.
"exact": the same partition in the same order; "finer", "coarser": the same order; "mixed": no two parameters in
opposite order, yet some boundary moved; "wrong order": two parameters swapped; "one depth": no order found; "error": no
depths. "?", "unsure": the depths carry a note that says that they may be wrong. No weights, no network.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from depth_networks import SETS, networks
from depth_networks.registry import Network

from lwexp.core.depth import find_depths

VERDICTS = ("exact", "finer", "coarser", "mixed", "wrong order", "one depth", "error")  # from the best on
SOURCES = {"execution": "with an example", "auto": "without an example"}
UNSURE = re.compile("unsure|uncertain|not sure|may not be|could not be compared", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What came of one network by one source."""

    verdict: str
    unsure: bool = False
    source: str = ""  # that was used
    seconds: float = 0.0
    by_name: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        used = f" by {self.source}" if self.source else ""
        return f"{self.verdict}{'?' if self.unsure else ''}{used}"


def compare(found: Mapping[str, int], reference: Mapping[str, int]) -> str:
    """The verdict on depths by name against a right answer; names without an answer are not compared."""
    theirs, ours = defaultdict(set), defaultdict(set)
    for name, depth in reference.items():
        theirs[depth].add(found[name])
        ours[found[name]].add(depth)
    if len(ours) == 1 and len(theirs) > 1:
        return "one depth"
    deepest = -1
    for depth in sorted(theirs):
        if min(theirs[depth]) < deepest:
            return "wrong order"
        deepest = max(deepest, *theirs[depth])
    finer, coarser = all(len(d) == 1 for d in ours.values()), all(len(d) == 1 for d in theirs.values())
    return "exact" if finer and coarser else "finer" if finer else "coarser" if coarser else "mixed"


def look(network: Network, source: str) -> Found:
    """The depths of one network and the best verdict over its right answers."""
    torch.manual_seed(0)
    example = network.example() if source == "execution" else None
    model = network.build()
    references = network.references(name for name, _ in model.named_parameters())
    began = time.perf_counter()
    try:
        depths = find_depths(model, source, example)
    except Exception as error:  # a row of the table, whatever it is
        return Found("error", notes=(f"{type(error).__name__}: {error}"[:300],))
    seconds = time.perf_counter() - began
    verdict = min((compare(depths.by_name, reference) for reference in references), key=VERDICTS.index)
    unsure = any(UNSURE.search(note) for note in depths.notes)
    return Found(verdict, unsure, depths.source, seconds, depths.by_name, depths.notes)


def details(network: Network, found: Found) -> str:
    """What is right, what was found, and the notes."""
    rights = (network.levels, *network.also)
    lines = [f"    right: {' | '.join(', '.join(level) for level in levels)}" for levels in rights]
    if network.anywhere:
        lines.append(f"    anywhere: {', '.join(network.anywhere)}")
    together = defaultdict(list)
    for name, depth in (found.by_name or {}).items():
        together[depth].append(name)
    for depth, names in sorted(together.items()):
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        lines.append(f"    {depth}: {', '.join(names[:6])}{more}")
    return "\n".join([*lines, *(f"    note: {note}" for note in found.notes)])


def table(rows: Mapping[str, Sequence[Mapping[str, Found]]]) -> str:
    """A line for each set and source: networks by verdict, those sure and wrong, those unsure."""
    head = "".join(f"{verdict:>13}" for verdict in VERDICTS)
    lines = [f"{'':40}{head}{'exact %':>9}{'wrong, sure':>13}{'unsure':>8}{'of which exact':>16}{'slowest':>9}"]
    for of, found in {**rows, "all": [row for some in rows.values() for row in some]}.items():
        for source, how in SOURCES.items():
            lines.append(f"{f'{of} ({len(found)}), {source} {how}':40}" + _counts([row[source] for row in found]))
    return "\n".join(lines)


def _counts(found: Sequence[Found]) -> str:
    count = Counter(f.verdict for f in found)
    sure = sum(f.verdict in ("wrong order", "one depth") and not f.unsure for f in found)
    unsure = [f for f in found if f.unsure]
    right = sum(f.verdict == "exact" for f in unsure)
    cells = "".join(f"{count[verdict]:>13}" for verdict in VERDICTS)
    share = count["exact"] / max(1, len(found))
    slowest = max((f.seconds for f in found), default=0.0)
    return f"{cells}{share:>9.1%}{sure:>13}{len(unsure):>8}{right:>16}{slowest:>8.1f}s"


def main() -> None:
    """Go through the networks and print what is not exact, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=SETS, help="only this set")
    parser.add_argument("--only", default="*", help="a pattern of the networks' names")
    parser.add_argument("--verbose", action="store_true", help="show right and found depths of what is not exact")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Found]]] = {}
    for of in [given.set] if given.set else SETS:
        rows[of] = []
        for network in networks(of):
            if not fnmatch.fnmatch(network.name, given.only):
                continue
            row = {source: look(network, source) for source in SOURCES}
            rows[of].append(row)
            if any(found.verdict != "exact" for found in row.values()):
                verdicts = " | ".join(f"{source}: {found}" for source, found in row.items())
                print(f"{network.name:28} {verdicts}", flush=True)
            for source, found in row.items():
                if given.verbose and found.verdict != "exact":
                    print(f"  {source}\n{details(network, found)}")
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
