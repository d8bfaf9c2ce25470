"""What a command says: a report on stdout, and errors that do not end the run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import click

from piscope.errors import PiscopeError
from piscope.report.render_layout import LEAST_COLUMNS
from piscope.report.render_words import printable

__all__ = ("columns_of", "echo_report", "echo_text", "error_line")


def columns_of(width: int | None) -> int:
    """The columns asked for, else the terminal's, else 80 (a pipe, a file)."""
    if width is not None:
        return width
    if sys.stdout.isatty():
        return shutil.get_terminal_size((LEAST_COLUMNS, 24)).columns
    return LEAST_COLUMNS


def echo_report(
    text_of: Callable[[int, bool], str], width: int | None, *, first: bool = True
) -> None:
    """Print what `text_of` makes of a number of columns and whether to use color."""
    echo_text(text_of(columns_of(width), sys.stdout.isatty()), first=first)


def echo_text(text: str, *, first: bool = True) -> None:
    """Print a text that ends with a newline; one that is not the first after a blank.

    A name in the trace may hold what this terminal's encoding lacks: it is escaped.
    """
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    click.echo(text if first else f"\n{text}", nl=False)


def error_line(error: Exception, trace: str) -> str:
    """Why one trace of several was not analyzed, in one line that names it."""
    if isinstance(error, PiscopeError):
        error.path = error.path or trace
        return printable(str(error))
    if isinstance(error, OSError):
        return printable(f"{error.filename or trace}: {error.strerror or error}")
    return printable(f"{trace}: out of memory")
