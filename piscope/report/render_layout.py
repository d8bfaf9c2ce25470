"""The few shapes that a report is made of: headings, facts, tables, remarks.

Each is a value that says what is in it; rich lays it out as text within a width, and
never cuts it off: what is too long for its column is folded. Cells become `Text`, which
rich takes literally: a thread whose name looks like markup stays a name. Other
renderings (HTML) read the same values.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from piscope.report.render_words import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = (
    "INDENT",
    "LEAST_COLUMNS",
    "MOST_COLUMNS",
    "Facts",
    "Grid",
    "Heading",
    "Note",
    "Picture",
    "Remarks",
    "Sheet",
    "as_text",
    "columns_within",
    "facts",
    "heading",
    "note",
    "remarks",
)

LEAST_COLUMNS, MOST_COLUMNS = 80, 120
"""Narrower terminals wrap; in wider ones the eye would lose the line."""

INDENT = 2
_FACT_COLUMNS = 10
_GAP = 2
_LEAST_LABEL = 18  # columns that a table's first column may be folded to


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a section."""

    text: str

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        return Text(self.text, style="bold")


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph of a section; an empty one is an empty line."""

    text: str
    style: str = ""

    def __rich__(self) -> RenderableType:
        from rich.padding import Padding
        from rich.text import Text

        text = Text(printable(self.text), style=self.style)
        return Padding(text, (0, 0, 0, INDENT))


@dataclass(frozen=True, slots=True)
class Picture:
    """Lines that are drawn with letters, and so stay as they are."""

    lines: tuple[str, ...]

    def __rich__(self) -> RenderableType:
        from rich.padding import Padding
        from rich.text import Text

        text = Text("\n".join(map(printable, self.lines)), no_wrap=True)
        return Padding(text, (0, 0, 0, INDENT))


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels with their texts, the texts one under the other.

    A row without a label goes on with the texts of the one above.
    """

    rows: tuple[tuple[str, str], ...]
    style: str = ""

    def __rich__(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        table.add_column(width=_FACT_COLUMNS + INDENT, no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in self.rows:
            table.add_row(
                Text(f"{'':{INDENT}}{label}"), Text(printable(text), style=self.style)
            )
        return table


@dataclass(frozen=True, slots=True)
class Remarks:
    """A list of sentences, each behind a dash."""

    texts: tuple[str, ...]

    def __rich__(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(width=INDENT + 1, no_wrap=True)
        table.add_column(overflow="fold")
        for text in self.texts:
            table.add_row(Text(f"{'':{INDENT}}-"), Text(printable(text)))
        return table


def heading(text: str) -> RenderableType:
    """The title of a section."""
    return Heading(text)


def note(text: str, style: str = "") -> RenderableType:
    """A paragraph of a section."""
    return Note(text, style)


def facts(rows: Iterable[tuple[str, str]], style: str = "") -> RenderableType:
    """Labels with their texts, the texts one under the other."""
    return Facts(tuple(rows), style)


def remarks(texts: Iterable[str]) -> RenderableType:
    """A list of sentences, each behind a dash."""
    return Remarks(tuple(texts))


@dataclass(slots=True)
class Grid:
    """A table of numbers: labels on the left, everything else aligned to the right.

    headings  of all columns; a newline in one makes a second line
    left      how many columns hold text and are aligned to the left
    rows      per row: how deep its label is indented, its cells, its style
    """

    headings: Sequence[str]
    left: int = 1
    rows: list[tuple[int, list[str], str]] = field(default_factory=list)

    def add(self, *cells: str, depth: int = 0, style: str = "") -> None:
        """Add a row; an empty cell has nothing to say."""
        assert len(cells) == len(self.headings)
        self.rows.append((depth, [printable(cell) for cell in cells], style))

    def render(self, width: int) -> RenderableType:
        """The table within `width` columns."""
        return Sheet(self, width)

    def laid_out(self, width: int) -> RenderableType:
        """The table as rich draws it: with narrower gaps if it has to be, and then with
        ranges folded at their blanks.
        """
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        gap = _GAP if self._natural_width() <= width else 1
        table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="")
        for i, title in enumerate(self.headings):
            least = max(self._words(i), default=0)
            table.add_column(
                Text(title),
                justify="left" if i < self.left else "right",
                vertical="bottom" if i >= self.left else "top",
                min_width=min(least, _LEAST_LABEL) if i < self.left else least,
                overflow="fold",
            )
        for depth, (label, *numbers), style in self.rows:
            table.add_row(
                Padding(Text(label), (0, 0, 0, 2 * depth)),
                *(Text(cell) for cell in numbers),
                style=style,
            )
        return Padding(table, (0, 0, 0, INDENT))

    def _natural_width(self) -> int:
        from rich.cells import cell_len

        total = INDENT + _GAP * (len(self.headings) - 1)
        for i, title in enumerate(self.headings):
            lengths = [cell_len(line) for line in title.split("\n")]
            for depth, cells, _ in self.rows:
                lengths.append(cell_len(cells[i]) + (2 * depth if i == 0 else 0))
            total += max(lengths)
        return total

    def _words(self, column: int) -> Iterator[int]:
        from rich.cells import cell_len

        texts = [self.headings[column], *(cells[column] for _, cells, _ in self.rows)]
        return (cell_len(word) for text in texts for word in text.split())


@dataclass(frozen=True, slots=True)
class Sheet:
    """A grid, and the width that it is to keep to as text."""

    grid: Grid
    width: int

    def __rich__(self) -> RenderableType:
        return self.grid.laid_out(self.width)


def columns_within(width: int) -> int:
    """The columns of a report for a terminal of that width: 80 to 120."""
    return min(max(width, LEAST_COLUMNS), MOST_COLUMNS)


def as_text(
    sections: Iterable[Iterable[RenderableType]], *, columns: int, color: bool
) -> str:
    """The sections, an empty line between them, without trailing blanks in any line.

    With `color` there are escape sequences for bold and color, which only repeat what
    the words say; NO_COLOR=1 in the environment takes the color out of them.
    """
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file,
        width=columns,
        force_terminal=color,
        color_system="auto" if color else None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    for i, section in enumerate(sections):
        parts = list(section)
        if i and parts:
            console.print()
        for part in parts:
            console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
