"""A self-contained HTML page: its style, and the few elements that a report is made of."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark;
  --paper: #fcfcfb; --ink: #1d2126; --soft: #5d6670; --line: #dfe2e5; --panel: #f3f4f5;
  --more: #17794a; --less: #b3332b; --accent: #2f6fc4; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15181c; --ink: #e4e7ea; --soft: #9aa4ae; --line: #30363d; --panel: #1d2228;
  --more: #57c58d; --less: #f0857c; --accent: #7db1f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.9rem; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .6rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .4rem 0; max-width: 60rem; }
.soft, figcaption, small { color: var(--soft); font-size: .87rem; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .7rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .32rem .8rem .32rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td { vertical-align: top; }
td:first-child { font-weight: 600; }
td.text { white-space: normal; }
tr.group td { border-top: 2px solid var(--soft); }
.published { color: var(--soft); font-style: italic; }
.more { color: var(--more); } .less { color: var(--less); } .even { color: var(--soft); }
.more b, .less b { font-weight: 650; }
.range { color: var(--soft); font-size: .82em; display: block; }
td small { font-size: .92em; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: .8rem;
  margin: 1rem 0 0; }
.card { background: var(--panel); border-radius: .6rem; padding: .8rem 1.1rem; }
.card .big { font-size: 1.7rem; font-weight: 650; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.note { border-left: 3px solid var(--accent); padding: .1rem 0 .1rem .9rem; margin: 1rem 0; }
figure { margin: 1rem 0; }
svg { width: 100%; height: auto; display: block; color: var(--ink); }
svg text { font-family: inherit !important; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr));
  gap: .7rem; margin: .5rem 0 1.4rem; }
.tiles figure { margin: 0; } .tiles img { width: 100%; display: block; border-radius: .35rem; }
details > summary { cursor: pointer; color: var(--accent); margin: .6rem 0; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; background: #fff; }
  :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #f3f3f3;
    --more: #17794a; --less: #b3332b; --accent: #1d4f91; }
  h2, h3 { break-after: avoid; } figure, tr, section, .card { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .scroll { overflow: visible; } table { font-size: 8pt; } th, td { padding-right: .4rem; }
  .tiles { grid-template-columns: repeat(4, 1fr); } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page; nothing in it is fetched from anywhere."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style></head>",
            "<body>",
            *parts,
            "</body></html>\n",
        ]
    )


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, groups: Sequence[int] = (), text=()
) -> str:
    """A table of HTML cells.

    Args:
        headers, rows: cells, escaped already.
        groups: numbers of the rows that begin a group.
        text: numbers of the columns of words instead of numbers, beside the first.
    """

    def cells(kind: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=text' if index in text else ''}>{value}</{kind}>"
            for index, value in enumerate(values)
        )

    lines = [
        f"<tr{' class=group' if index in groups else ''}>{cells('td', row)}</tr>"
        for index, row in enumerate(rows)
    ]
    head = f"<thead><tr>{cells('th', headers)}</tr></thead>"
    return f"<div class=scroll><table>{head}<tbody>{''.join(lines)}</tbody></table></div>"


def gain(value: Mapping | None, signed, *, whole: bool = True, even: bool = False) -> str:
    """A gain with sign and colour; its interval, and grey where that holds 0.

    Args:
        value: of :func:`~lambda_det.comparison.statistics.paired_difference`.
        signed: number -> text.
        whole: with the interval.
        even: grey, whatever the interval.
    """
    if value is None:
        return "–"
    low, high, mean = value["low"], value["high"], value["mean"]
    unsure = low is not None and low <= 0 <= high
    nothing = signed(mean) == signed(0)
    kind = "even" if unsure or nothing or even else "more" if mean > 0 else "less"
    text = f"<b>{signed(mean)}</b>"
    if whole and low is not None:
        text += f"<span class=range>[{signed(low)}, {signed(high)}]</span>"
    return f"<span class={kind}>{text}</span>"


def figure(content: str, caption: str = "") -> str:
    words = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{content}{words}</figure>"


def picture(content: bytes, description: str, kind: str = "jpeg") -> str:
    """An image whose bytes are in the page."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(description)}" src="data:image/{kind};base64,{data}">'


def details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"
