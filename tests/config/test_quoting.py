"""An override that Hydra cannot parse: the answer has the corrected word, which a shell and Hydra then read."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.experiment.resumed_runs import one_line
from tests.helpers.commands import RunHere


@pytest.mark.parametrize(("override", "value"), [
    ("data.path=my#folder", "my#folder"),
    ("data.path=a(b)", "a(b)"),
    ("data.path=a=b", "a=b"),
    ("data.path=Müller", "Müller"),
    ("data.path=R&D; 100 <%>", "R&D; 100 <%>"),
    ("tracking.experiment=it's", "it's"),
    ('tracking.experiment=8" disk', '8" disk'),
    ("freeze=[größe,b]", ["größe", "b"]),
    ("freeze=[a, [b#,c]]", ["a", ["b#", "c"]]),
    ("lr_overrides={a(b): 0.1}", {"a(b)": 0.1}),
    ("lr_overrides={fc=0.1, conv1=0.2}", {"fc": 0.1, "conv1": 0.2}),
])  # fmt: skip
def test_the_corrected_word_is_given_and_can_be_typed(override: str, value: Any, lwexp_here: RunHere) -> None:
    line = one_line(lwexp_here("run", override, "--cfg", "job"))
    assert line.startswith(f"{override}: Hydra cannot read ")
    (word,) = shlex.split(line.partition("; write ")[2])
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert (parsed.key_or_group, parsed.value()) == (override.partition("=")[0], value)


def test_the_values_of_a_sweep_are_quoted_one_by_one(lwexp_here: RunHere) -> None:
    line = one_line(lwexp_here("run", "-m", "tracking.experiment=a#1,b"))
    assert line.endswith("""write 'tracking.experiment="a#1",b'""")


@pytest.mark.parametrize("override", ["freeze=[a,b", "lr_overrides={fc: 0.1", "lr=${oc.env:LR", "freeze=a,b]"])
def test_what_is_not_closed_is_said(override: str, lwexp_here: RunHere) -> None:
    assert "without its pair" in one_line(lwexp_here("run", override, "--cfg", "job"))
