"""The account of what a perf.data does not hold, in a bounded number of rows."""

from __future__ import annotations

from dataclasses import replace

from piscope.sources.raw import Loss, LossCause

__all__ = ("LossLog",)

# A recorder that can't keep up writes a LOST record each time it is read. Beyond this
# many rows of one cause and pCPU, the further ones become one row.
_ROWS_EACH = 1000


class LossLog:
    """Collects losses in the order in which they are found."""

    def __init__(self, rows: list[Loss] | None = None) -> None:
        self._rows: list[Loss] = list(rows or ())
        self._number: dict[tuple[LossCause, int | None], int] = {}
        self._rest: dict[tuple[LossCause, int | None], Loss] = {}

    def add(
        self,
        cause: LossCause,
        detail: str,
        *,
        cpu: int | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
        count: int | None = None,
    ) -> None:
        """One more loss; see raw.Loss for the arguments."""
        row = Loss(cause, cpu, start_ns, end_ns, count, detail)
        key = (cause, cpu)
        number = self._number[key] = self._number.get(key, 0) + 1
        if number <= _ROWS_EACH:
            self._rows.append(row)
        elif key not in self._rest:
            self._rest[key] = row
        else:
            self._rest[key] = _joined(self._rest[key], row)

    def rows(self) -> list[Loss]:
        """All losses; the last ones may each stand for many."""
        rest = []
        for key, row in self._rest.items():
            further = self._number[key] - _ROWS_EACH
            detail = f"{further} more of the same kind, the last: {row.detail}"
            rest.append(replace(row, detail=detail))
        return self._rows + rest


# One row that covers both: the union of their times, the sum of their counts.
def _joined(first: Loss, second: Loss) -> Loss:
    starts = (first.start_ns, second.start_ns)
    ends = (first.end_ns, second.end_ns)
    counts = (first.count, second.count)
    return Loss(
        first.cause,
        first.cpu,
        None if None in starts else min(s for s in starts if s is not None),
        None if None in ends else max(e for e in ends if e is not None),
        None if None in counts else sum(c for c in counts if c is not None),
        second.detail,
    )
