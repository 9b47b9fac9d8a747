"""The plan as a table in a notebook: the rates as bars too, the middle of a long table folded, for any theme.

Without its style, as where a viewer removes it, it is a plain table of all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from lwexp.formatting import printable

from .plan_table import PlanGroup, PlanTable
from .plan_text import cells, header

FOLDED = 24  # tables with more rows are folded
ENDS = 8  # rows that stay visible at each end
MOST = 1000  # rows in the page; a table of 10,000 would slow the notebook down

# Colors are the notebook's own (inherited, or gray with transparency), so that light and dark themes both read well.
# `:has` opens the fold without a script; browsers that lack it show all rows.
_STYLE = """
.lwexp-plan { overflow-x: auto; font-size: 13px; line-height: 1.4; }
.lwexp-plan p { margin: 0 0 2px; }
.lwexp-plan .note { opacity: .75; max-width: 60em; }
.lwexp-plan .warning { font-weight: bold; border-left: 4px solid #d9822b; padding-left: 8px; max-width: 60em; }
.lwexp-plan table { border-collapse: collapse; margin: 8px 0; width: auto; color: inherit; font-size: inherit; }
.lwexp-plan th, .lwexp-plan td { padding: 2px 10px; text-align: right; white-space: nowrap; color: inherit;
  border: 0; background: none; font-variant-numeric: tabular-nums; }
.lwexp-plan thead th { font-weight: 600; border-bottom: 1px solid rgba(128, 128, 128, .6); }
.lwexp-plan tbody tr { background: none; border-bottom: 1px solid rgba(128, 128, 128, .18); }
.lwexp-plan tbody tr:hover { background: rgba(128, 128, 128, .12); }
.lwexp-plan table th.text, .lwexp-plan table td.text { text-align: left; }
.lwexp-plan td.text { font-family: monospace; }
.lwexp-plan .frozen { opacity: .5; }
.lwexp-plan td.rate { background: linear-gradient(rgba(46, 134, 222, .3), rgba(46, 134, 222, .3)) no-repeat left center;
  background-size: var(--bar) 70%; min-width: 9em; }
.lwexp-plan table .gap td { text-align: left; padding: 4px 10px; opacity: .8; }
.lwexp-plan .gap label { cursor: pointer; }
@supports selector(:has(*)) {
  .lwexp-plan table:not(:has(input:checked)) .middle { display: none; }
  .lwexp-plan .gap input { appearance: none; margin: 0 6px 0 0; color: inherit; cursor: pointer; }
  .lwexp-plan .gap input::before { content: "▸"; }
  .lwexp-plan .gap input:checked::before { content: "▾"; }
}
"""


def html(plan: PlanTable) -> str:
    """The table as HTML with its style; all texts are escaped."""
    titles, body, left = cells(plan)
    kinds = ["text" if k in left else "rate" if title == "lr" else "" for k, title in enumerate(titles)]
    lines = [*_header(plan), "<table>", "<thead><tr>"]
    lines += [f"<th{_class(kind)}>{escape(title)}</th>" for title, kind in zip(titles, kinds, strict=True)]
    lines += ["</tr></thead>", *_body(plan, body, kinds), "</table>"]
    return f'<div class="lwexp-plan"><style>{_STYLE}</style>\n{"".join(lines)}</div>'


def _header(plan: PlanTable) -> Iterator[str]:
    kinds = {"WARNING: ": "warning", "note: ": "note"}
    for line in header(plan):
        kind = next((kind for start, kind in kinds.items() if line.startswith(start)), "")
        yield f"<p{_class(kind)}>{escape(line)}</p>"


def _body(plan: PlanTable, body: list[list[str]], kinds: list[str]) -> Iterator[str]:
    highest = max((g.lr for g in plan.groups), default=0) or 1
    rows = [_row(g, texts, kinds, g.lr / highest) for g, texts in zip(plan.groups, body, strict=True)]
    if len(rows) <= FOLDED:
        yield from _part(rows)
        return
    middle = rows[ENDS:-ENDS]
    first, last = (escape(f"{plan.groups[i].index} {printable(plan.groups[i].name)}") for i in (ENDS, -ENDS - 1))
    hidden = len(middle) - MOST
    yield from _part(rows[:ENDS])
    gap = f"{len(middle):,} more groups: {first} to {last}"
    yield f'<tbody class="gap"><tr><td colspan="{len(kinds)}"><label><input type="checkbox">{gap}</label></td></tr>'
    yield "</tbody>"
    yield from _part(middle[:MOST], "middle")
    if hidden > 0:
        yield f'<tbody class="middle"><tr><td colspan="{len(kinds)}" class="text">… {hidden:,} groups are not shown'
        yield "; plan.rows() has all</td></tr></tbody>"
    yield from _part(rows[-ENDS:])


def _part(rows: Iterable[str], kind: str = "") -> Iterator[str]:
    yield f"<tbody{_class(kind)}>"
    yield from rows
    yield "</tbody>"


def _row(group: PlanGroup, texts: list[str], kinds: list[str], share: float) -> str:
    written = [
        f"<td{_class(kind)}{f' style=--bar:{share:.1%}' if kind == 'rate' else ''}>{escape(text)}</td>"
        for text, kind in zip(texts, kinds, strict=True)
    ]
    return f"<tr{_class('frozen' if group.frozen else '')}>{''.join(written)}</tr>\n"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
