"""The losses of one pass over a trace, in bounded memory.

A file that is damaged everywhere has as many losses as it has parts. Beyond a
limit, those of one cause and pCPU become one row that covers them all.
"""

from __future__ import annotations

from collections import Counter

from piscope.sources.raw import Loss, LossCause

__all__ = ("LossLog",)

MAX_ROWS = 10_000


class LossLog:
    """Losses as they are found, at most MAX_ROWS of each cause and pCPU.

    The last row of a cause and pCPU that has more stands for the rest: from the
    first of them to the end of the last, with the sum of their counts where all are
    known.
    """

    def __init__(self, losses: list[Loss] | None = None) -> None:
        self.rows: list[Loss] = list(losses or ())
        self._seen: Counter[tuple[LossCause, int | None]] = Counter()
        self._rest: dict[tuple[LossCause, int | None], int] = {}

    def add(self, loss: Loss) -> None:
        """Note one loss."""
        key = (loss.cause, loss.cpu)
        self._seen[key] += 1
        if self._seen[key] <= MAX_ROWS:
            self.rows.append(loss)
            return
        place = self._rest.get(key)
        if place is None:
            self._rest[key] = len(self.rows)
            self.rows.append(loss)
            return
        rest = self.rows[place]
        known = rest.count is not None and loss.count is not None
        self.rows[place] = Loss(
            loss.cause,
            cpu=loss.cpu,
            start_ns=rest.start_ns,
            end_ns=loss.end_ns,
            count=(rest.count or 0) + (loss.count or 0) if known else None,
            detail=f"{self._seen[key] - MAX_ROWS} more losses of this kind",
        )
