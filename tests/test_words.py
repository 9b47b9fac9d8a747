"""The words of `lwexp/`, `conf/` and all READMEs: those of PyTorch, Hydra and MLflow, in American spelling."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.helpers.commands import ROOT

BETTER = {  # what is not written, as a regular expression -> what is
    r"\b(is|are|was|were|be|been) told\b(?! apart)": "reported, received, given",
    r"\btells? (of|whether)\b": "reports, says whether",
    r"\bpeople\b": "the user, users",
    r"\bnobody\b": "no one, not set",
    r"\bwhoever\b": "the user, any caller",
    r"\banew\b": "again",
    r"\bbegun\b": "started",
    r"\b(goes|going) on\b(?! (top|disk|the))": "continues, resumes",
    r"\bgo on with\b": "continue, resume",
    r"\bleft out\b": "omitted, skipped, excluded",
    r"\bheed(s|ed|ing)?\b": "handle",
    r"\b(taken|takes?|took) up\b": "restored, resumed",
    r"\bin vain\b": "without success",
    r"\b(no|a bad) number\b|\bnumbers that are none\b": "NaN or infinite, non-finite",
    r"\bjudg(e|es|ed|ing)\b": "evaluate",
    r"\bstand-?ins?\b": "simulated",
    r"\blooks? at training\b": "metric-driven",
    r"\bwhat becomes? of\b|\bbecame of\b": "the outcome, the status",
    r"\bwithout a word\b": "unexpectedly",
    r"\bof one's own\b|\bones own\b": "custom, its own",
    r"\b(initial|normal|optim|serial|synchron|organ|summar|recogn|real|parallel|final|general|minim|maxim|special"
    r"|custom|util|categor|quant|token|random|standard|visual|vector|regular)is(e|es|ed|ing|ation|er|ers)\b": "-ize",
    r"\banalys(e|es|ed|ing)\b": "analyze",
    r"\b(col|behavi|fav|hon|neighb|lab|hum|rum)our(s|ed|ing|able|ite|hood)?\b": "-or",
    r"\b(label|model|signal|travel|channel|total|equal|level)l(ed|ing|er)\b": "one l",
    r"\b(cent|met|fib|theat)re(s|d)?\b": "-er",
    r"\b(grey|artefact|licence|catalogue|programme|whilst|amongst|learnt|spelt)\b": "its American form",
}
ENDS = {"lwexp": (".py", ".html", ".css", ".js", "README.md"), "conf": (".yaml", "README.md"), "tests": ("README.md",)}
FILES = [
    ROOT / "README.md",
    *sorted(path for place, ends in ENDS.items() for path in (ROOT / place).rglob("*") if path.name.endswith(ends)),
]


def found(pattern: str) -> Iterator[str]:
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for match in re.finditer(pattern, line, flags=re.IGNORECASE):
                yield f"{path.relative_to(ROOT)}:{number}: {match[0]!r}: {line.strip()[:100]}"


@pytest.mark.parametrize("pattern", BETTER)
def test_words_are_those_of_the_field(pattern: str) -> None:
    places = list(found(pattern))
    assert not places, "\n".join([f"better: {BETTER[pattern]}", *places])
