"""Text that several parts print: errors on one line, printable names, aligned tables, cells of CSV and Markdown."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
NBSP = "\u00a0"  # a blank at which `wrapped` breaks no line


def one_line(error: BaseException | str, limit: int | None = 200, *, kind: bool = False) -> str:
    """The text of `error` on one line of at most `limit` characters (None: all of it); its type where it has no text.

    With `kind` the type comes first: for errors of code that is not lwexp's, whose text alone may say nothing.

    >>> one_line(ValueError("not\\n  a number")), one_line(KeyError("lr"), kind=True), one_line(StopIteration())
    ('not a number', "KeyError: 'lr'", 'StopIteration')
    >>> one_line("a long text", limit=8)
    'a lon...'
    """
    text, name = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, BaseException):
        text = (f"{name}: {text}" if kind else text) if text else name
    return text if limit is None or len(text) <= limit else f"{text[: limit - 3]}..."


def printable(name: str) -> str:
    """`name` on one line and without characters that control a terminal: those are written as Python escapes.

    >>> print(printable("a" + chr(10) + "b"), printable("blocks.0"))
    a\\nb blocks.0
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def plain(value: Any) -> Any:
    """`value` of plain types, which any file can hold: mappings, lists, numbers, texts; others as they are printed.

    >>> plain({"betas": (0.9, 0.99), 1: len})
    {'betas': [0.9, 0.99], '1': '<built-in function len>'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if value is None or type(value) in (bool, int, float, str) else repr(value)


def few(texts: Sequence[str], limit: int = 3, separator: str = ", ") -> str:
    """The first `limit` of `texts`, and how many more there are.

    >>> few(["fc", "layer4"]), few(["a", "b", "c", "d"], limit=2)
    ('fc, layer4', 'a, b and 2 more')
    """
    more = len(texts) - limit
    return separator.join(texts[:limit]) + (f" and {more} more" if more > 0 else "")


def aligned(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), ragged: bool = False
) -> list[str]:
    """The lines of a table: `titles`, a rule of dashes, and `rows`, in columns that are two blanks apart.

    Columns in `left` are aligned to the left, the others to the right. `ragged`: the last column is text of any
    length, whose rule is as long as its title.

    >>> print("\\n".join(aligned(["name", "lr"], [["fc", "0.1"], ["layer4", "0.09"]])))
    name      lr
    ------  ----
    fc       0.1
    layer4  0.09
    """
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    if ragged:
        widths[-1] = len(titles[-1])
    rule = ["-" * width for width in widths]
    at_left = {*left, *([len(titles) - 1] if ragged else [])}
    return [
        "  ".join(
            text.ljust(width) if k in at_left else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (titles, rule, *rows)
    ]


def metric_text(name: str, value: float) -> str:
    """A metric's name and value as a person writes them: fractions that are rates in percent.

    >>> metric_text("accuracy", 0.5), metric_text("loss", 1.25), metric_text("macro_f1", 0.5)
    ('accuracy 50.00 %', 'loss 1.2500', 'macro F1 0.5000')
    """
    words = name.replace("_", " ").replace(" f1", " F1")
    return f"{words} {value:.2%}".replace("%", " %") if words.endswith("accuracy") else f"{words} {value:.4f}"


def wrapped(text: str, width: int, indent: int = 0) -> str:
    """`text` in lines of at most `width` characters where its blanks allow it; all but the first are indented.

    At a `NBSP`, which becomes a blank, no line ends.

    >>> print(wrapped("data:  images of cats and dogs", 20, 7))
    data:  images of
           cats and dogs
    """
    import textwrap

    filled = textwrap.wrap(
        text, max(width, 20), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
        replace_whitespace=False, drop_whitespace=True,
    )  # fmt: skip
    return "\n".join(filled).replace(NBSP, " ")


def cell(value: T, *, numbers: bool = False) -> T | str:
    """`value` for a CSV file: a text that a spreadsheet would take for a formula gets a quote in front.

    `numbers`: a text may be a formatted number, such as "-0.5", which stays; a name never is one.

    >>> [cell(value) for value in ("=1+1", "-1", "blocks.0", 3)]
    ["'=1+1", "'-1", 'blocks.0', 3]
    >>> cell("-0.5", numbers=True)
    '-0.5'
    """
    if not isinstance(value, str) or (numbers and _is_number(value)):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def escaped(text: str) -> str:
    r"""`text` as Markdown shows it unchanged, also in a cell of a table.

    >>> print(escaped("conv_1 | <*>"))
    conv\_1 \| &lt;\*>
    """
    for character in "\\|*_`":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;")


def version() -> str:
    """The version of the installed lwexp; that of a checkout that is not installed is `0+unknown`."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("lwexp")
    except PackageNotFoundError:
        return "0+unknown"


def version_line() -> str:
    """What `--version` prints."""
    return f"lwexp {version()}"


_ASCII = {"…": "...", "\u00d7": "x", "→": "->", "\u2212": "-", "\u2013": "-", "±": "+-", "≤": "<=", "≥": ">=", "·": "-"}


def fit_terminal() -> None:
    """Have standard output and error write what their encoding lacks in its own characters, or as escapes."""

    def replaced(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        odd = error.object[error.start : error.end]
        shown = "".join(_ASCII.get(c, c.encode("unicode_escape", "surrogatepass").decode()) for c in odd)
        return shown, error.end

    codecs.register_error("lwexp", replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict" and _lacks(stream.encoding):
            stream.reconfigure(errors="lwexp")


def _lacks(encoding: str) -> bool:
    try:
        "…".join(_ASCII).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
