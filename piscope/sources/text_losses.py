"""What a text does not know, told in rows of LOSSES that stay few.

A lost-events line and lines that nobody can parse leave a gap between the events
around them. A gap stays open until a later event closes it, runs of bad lines are
one row, and beyond some rows of a cause the last one widens: even a file of nothing
but bad lines gives a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from piscope.sources.raw import Loss, LossCause

__all__ = ("LossLog",)

_MAX_ROWS = 1000
_AND_MORE = ", and more later"


@dataclass(slots=True)
class _Gap:
    loss: Loss
    open: bool


class LossLog:
    """The losses of one pass, in the order in which the text shows them."""

    def __init__(self) -> None:
        self._gaps: list[_Gap] = []
        self._last: dict[LossCause, _Gap] = {}
        self._rows: dict[LossCause, int] = {}

    def add(self, loss: Loss, *, open_ended: bool = False) -> None:
        """A loss; `open_ended` while the event that ends it is still to come."""
        cause = loss.cause
        last = self._last.get(cause)
        if last is not None and self._rows[cause] >= _MAX_ROWS:
            last.loss = _widened(last.loss, loss)
            last.open |= open_ended
            return
        gap = _Gap(loss, open_ended)
        self._rows[cause] = self._rows.get(cause, 0) + 1
        self._last[cause] = gap
        self._gaps.append(gap)

    def add_unparsed(self, loss: Loss, *, goes_on: bool) -> None:
        """Unparsed lines, up to `loss.end_ns` or, if that is None, open-ended.

        `goes_on`: no event was between these lines and those before.
        """
        last = self._last.get(loss.cause)
        if goes_on and last is not None and last.open:
            total = (last.loss.count or 0) + (loss.count or 0)
            last.loss = replace(last.loss, count=total, end_ns=loss.end_ns)
            last.open = loss.end_ns is None
            return
        self.add(loss, open_ended=loss.end_ns is None)

    def close(self, next_event_ns: Callable[[int | None], int | None]) -> None:
        """End the open gaps at the next event of their pCPU (None: of any)."""
        for gap in self._gaps:
            if gap.open and (ts_ns := next_event_ns(gap.loss.cpu)) is not None:
                gap.loss, gap.open = replace(gap.loss, end_ns=ts_ns), False

    def losses(self) -> list[Loss]:
        """All rows; a gap that is still open reaches to the end."""
        return [gap.loss for gap in self._gaps]


def _widened(loss: Loss, other: Loss) -> Loss:
    """One loss that covers two of the same cause."""
    known = loss.count is not None and other.count is not None
    return replace(
        loss,
        cpu=loss.cpu if loss.cpu == other.cpu else None,
        end_ns=other.end_ns,
        count=(loss.count or 0) + (other.count or 0) if known else None,
        detail=loss.detail.removesuffix(_AND_MORE) + _AND_MORE,
    )
