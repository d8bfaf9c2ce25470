"""A trace narrowed by `--from` and `--to`, opened and with its progress shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from piscope.commands.moments import Moment, parse_moment
from piscope.commands.opening import opened
from piscope.commands.progress import Progress
from piscope.commands.survey import Survey, survey
from piscope.commands.watched import WatchedSource

if TYPE_CHECKING:
    from piscope.sources.raw import Source

__all__ = ("Narrowed", "narrowed", "parse_moments", "resolved")

Narrowed = tuple[int | None, int | None]
"""The instants of `--from` and `--to` on the trace's clock; None: open."""

_Moments = tuple[Moment | None, Moment | None]


def parse_moments(start: str | None, end: str | None) -> _Moments:
    """What a user wrote for `--from` and `--to`.

    Raises UsageError for what is no instant.
    """
    return (
        parse_moment(start) if start is not None else None,
        parse_moment(end) if end is not None else None,
    )


def resolved(moments: _Moments, source: Source, seen: Survey) -> Narrowed:
    """The instants on the clock of this trace; `seen` matters to relative ones only.

    Raises UsageError for a unit of time where the clock does not count nanoseconds.
    """
    counts = source.info.ts_unit != "ns"
    start, end = (
        m.resolve(seen.first_ns, seen.last_ns, counts=counts) if m is not None else None
        for m in moments
    )
    return start, end


@contextmanager
def narrowed(
    trace: str,
    start: str | None,
    end: str | None,
    *,
    ignore: tuple[str, ...],
    quiet: bool,
) -> Iterator[tuple[Source, Narrowed]]:
    """The trace, watched by a progress bar, and the instants that it is narrowed to.

    Raises UsageError, and whatever `opened` raises.
    """
    moments = parse_moments(start, end)
    relative = any(m is not None and m.is_relative for m in moments)
    with opened(trace, twice=relative) as source:
        seen = survey(source, ignore=ignore) if relative else Survey()
        instants = resolved(moments, source, seen)
        with Progress(quiet=quiet) as progress:
            yield cast("Source", WatchedSource(source, progress)), instants
