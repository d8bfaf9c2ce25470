"""Sections as GitHub-flavored Markdown that reads well as plain text in 80 columns.

Made from the same shapes as the text of the terminal (`render_layout`), so that the
two can't say different numbers. Tables are aligned; a cell that would make a table too
wide goes on in a row below, as the terminal folds it:

    |                       | preempt-only | suppress-on-put | difference |
    | --------------------- | -----------: | --------------: | ---------: |
    | spurious in the host, |              |                 |            |
    | vCPU loaded           |            7 |               7 |          0 |

What the trace names (threads, files) never becomes markup: it is escaped. A word that
is longer than a line stays whole.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from piscope.report.render_layout import (
    Facts,
    Grid,
    Heading,
    Note,
    Remarks,
    Sheet,
    as_text,
)
from piscope.report.render_words import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("COLUMNS", "as_markdown", "escaped")

COLUMNS = 80
"""Of every line, but for words that are longer."""

_MARKUP = re.compile(
    r"[\\`*\[\]|~]|<(?=[A-Za-z/!?])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[#\w]+;)"
)
_DEPTH = re.compile(r"(- )*")
_UNIT = re.compile(r"(?<=\d) (?=(?:ns|us|ms|s)\b)")  # stays with its number
# What makes a list, a heading, a quote or a rule of a line that begins with it.
_OPENS_BLOCK = re.compile(r"(?=[-+#>=]|:?-{2,})|(?<=\d)(?=[.)]( |$))")
_DIGITS = re.compile(r"\d{1,9}(?=[.)]( |$))")


def as_markdown(
    sections: Iterable[Iterable[RenderableType]], *, columns: int = COLUMNS
) -> str:
    """The sections, ending with a newline; the first heading is the document's."""
    blocks: list[str] = []
    for section in sections:
        for shape in section:
            blocks += _blocks(shape, columns, first=not blocks)
    return "\n\n".join(blocks) + "\n"


def _blocks(shape: RenderableType, columns: int, *, first: bool) -> Iterator[str]:
    match shape:
        case Heading(text):
            yield _heading(text, columns, first=first)
        case Note(text):
            if text:
                yield _wrapped(text, columns)
        case Facts(rows):
            if rows:
                yield "\n".join(_facts(rows, columns))
        case Remarks(texts):
            if texts:
                yield "\n".join(_item(escaped(printable(t)), columns) for t in texts)
        case Sheet(grid):
            yield from _tables(grid, columns)
        case _:
            yield _literal(as_text([[shape]], columns=columns, color=False))


def escaped(text: str) -> str:
    """Text that no Markdown reader takes for markup, as far as one line goes."""
    return _MARKUP.sub(r"\\\g<0>", text)


def _heading(text: str, columns: int, *, first: bool) -> str:
    mark = "#" if first else "##"
    line = f"{mark} {escaped(printable(text))}"
    if len(line) <= columns or " " not in text:
        return line
    # the other form of heading may have several lines
    return f"{_wrapped(text, columns)}\n{'===' if first else '---'}"


def _wrapped(text: str, columns: int, indent: str = "") -> str:
    return _fill(escaped(printable(text)), columns, indent)


def _fill(text: str, columns: int, indent: str = "") -> str:
    """Lines of at most `columns`, none of which begins like another kind of block."""
    lines = textwrap.wrap(
        text,
        columns - len(indent) - 1,  # a line may need a backslash
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"\n{indent}".join(_plain_start(line) for line in lines)


def _plain_start(line: str) -> str:
    number = _DIGITS.match(line)
    if number is not None:
        return f"{line[: number.end()]}\\{line[number.end() :]}"
    return f"\\{line}" if _OPENS_BLOCK.match(line) else line


def _item(text: str, columns: int) -> str:
    return f"- {_fill(text, columns, '  ')}"


def _facts(rows: Iterable[tuple[str, str]], columns: int) -> Iterator[str]:
    for label, text in rows:
        body = escaped(printable(text))
        if label:
            yield _item(f"**{escaped(label)}**: {body}", columns)
        else:
            yield f"  - {_fill(body, columns, '    ')}"


def _literal(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def _tables(grid: Grid, columns: int) -> Iterator[str]:
    """The grid; an empty row of it begins another table with the same headings."""
    heads = [escaped(_one_line(title)) for title in grid.headings]
    part: list[list[str]] = []
    for depth, cells, _ in [*grid.rows, (0, [""] * len(heads), "")]:
        if any(cells):
            label, *others = cells
            indented = f"{'- ' * depth}{label}" if label else label
            part.append([escaped(cell) for cell in (indented, *others)])
        elif part:
            yield "\n".join(_table(heads, part, grid.left, columns))
            part, heads = [], ["", *heads[1:]]


def _table(
    heads: Sequence[str], rows: list[list[str]], left: int, columns: int
) -> Iterator[str]:
    widths, pad = _widths([heads, *rows], columns)
    # words of a heading stand on top, so that the first line has something of each
    head, *more_heads = _folded(heads, widths, len(heads))
    yield _row(head, widths, left, pad)
    yield _rule(widths, left, pad)
    for line in more_heads:
        yield _row(line, widths, left, pad)
    for cells in rows:
        for line in _folded(cells, widths, left):
            yield _row(line, widths, left, pad)


def _one_line(title: str) -> str:
    """A heading that was broken into lines, as one."""
    return printable(title.replace("-\n", "").replace("\n", " "))


def _widths(rows: Sequence[Sequence[str]], columns: int) -> tuple[list[int], str]:
    """Columns of each cell, the widest folded until all fit; and the blank at a bar,
    none where nothing else would make it fit.
    """
    count = len(rows[0])
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(count)]
    least = [
        max([3, *(len(word) for row in rows for word in _words(row[i]))])
        for i in range(count)
    ]
    pad = " " if sum(least) + 3 * count + 1 <= columns else ""
    room = columns - (1 + 2 * len(pad)) * count - 1
    while sum(widths) > room:
        foldable = [i for i in range(count) if widths[i] > least[i]]
        if not foldable:
            break
        widths[max(foldable, key=lambda i: widths[i])] -= 1
    return widths, pad


def _words(cell: str) -> list[str]:
    return _UNIT.sub(_GLUE, cell).split()


_GLUE = "\0"  # which no cell holds: control characters are escaped


def _folded(
    cells: Sequence[str], widths: Sequence[int], left: int
) -> Iterator[list[str]]:
    """The rows that one row takes: words on top, numbers beside the last of them."""
    lines: list[list[str]] = []
    for cell, width in zip(cells, widths, strict=True):
        own = [""]
        for word in _words(cell):
            longer = f"{own[-1]} {word}" if own[-1] else word
            if len(longer) <= width or not own[-1]:
                own[-1] = longer
            else:
                own.append(word)
        own = [line.replace(_GLUE, " ") for line in own]
        if not lines and (depth := _DEPTH.match(cell)):
            own[1:] = [f"{'':{depth.end()}}{line}" for line in own[1:]]
        lines.append(own)
    count = max(map(len, lines))
    for i, own in enumerate(lines):
        missing = [""] * (count - len(own))
        lines[i] = own + missing if i < left else missing + own
    yield from (list(line) for line in zip(*lines, strict=True))


def _row(cells: Sequence[str], widths: Sequence[int], left: int, pad: str) -> str:
    padded = (
        cell.ljust(width) if i < left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"|{pad}{f'{pad}|{pad}'.join(padded)}{pad}|"


def _rule(widths: Sequence[int], left: int, pad: str) -> str:
    rules = (
        "-" * width if i < left else f"{'-' * (width - 1)}:"
        for i, width in enumerate(widths)
    )
    return f"|{pad}{f'{pad}|{pad}'.join(rules)}{pad}|"
