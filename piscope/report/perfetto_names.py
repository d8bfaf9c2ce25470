"""The names of slices and instants in a Perfetto trace, each made once.

A slice's name is a number in the file, so that a telling one costs no more than a short
one: `host (MSR_WRITE)`, `0x41 by vhost`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from piscope.origins import Origin
from piscope.outcomes import Findings, Hit, Row
from piscope.report.render_words import exit_reason_name
from piscope.sources.raw import Array
from piscope.tables import Intervals, Kind

__all__ = ("numbered", "outcome_names", "post_names", "row_names", "state_names")

Named = tuple[npt.NDArray[np.int64], Sequence[str]]
"""int64[n]: indexes into the names."""

_TABLE = 1 << 20  # keys in a range up to this are numbered by a table, without a sort


def numbered(keys: Array, name: Callable[[int], str]) -> Named:
    """The place of each key's name (int64[n]) among the different names, and those."""
    if not len(keys):
        return np.zeros(0, np.int64), []
    low, high = int(keys.min()), int(keys.max())
    if high - low < _TABLE:
        there = np.bincount(keys - low) > 0
        different = np.flatnonzero(there) + low
        number = (np.cumsum(there) - 1)[keys - low]
    else:
        different, number = np.unique(keys, return_inverse=True)
    names = [name(key) for key in different.tolist()]
    place = {text: i for i, text in enumerate(dict.fromkeys(names))}
    if len(place) < len(names):  # some keys have the same name
        number = np.array([place[text] for text in names], np.int64)[number]
    return number, list(place)


def state_names(intervals: Intervals, rows: Array) -> Named:
    """`guest`, `blocked?` (the trace leaves it open), `host (MSR_WRITE)`.

    What KVM handles is told of its own time only, not of the sleep that may follow.
    """
    kind = intervals.kind[rows].astype(np.int64)
    in_kvm = (kind == Kind.HOST) | (kind == Kind.HOST_IRQS_OFF)
    reason = np.where(in_kvm, intervals.reason[rows].astype(np.int64), -1)
    key = ((reason + 1) * len(Kind) + kind) * 2 + intervals.certain[rows]
    return numbered(key, _state_name)


def _state_name(key: int) -> str:
    rest, certain = divmod(key, 2)
    reason, number = divmod(rest, len(Kind))
    kind = Kind(number)
    name = kind.label if certain or kind == Kind.UNKNOWN else f"{kind.label}?"
    return f"{name} ({exit_reason_name(str(reason - 1))})" if reason else name


_UNSEEN = len(Origin)  # in place of an origin: no event shows the post


def post_names(vector: Array, origin: Array) -> Named:
    """`0x41 by vhost`; an origin of -1 is hardware that no event shows."""
    who = np.where(origin < 0, _UNSEEN, origin).astype(np.int64)
    return numbered((vector.astype(np.int64) + 1) * (_UNSEEN + 1) + who, _post_name)


def _post_name(key: int) -> str:
    vector, origin = divmod(key, _UNSEEN + 1)
    who = "hardware, unseen" if origin == _UNSEEN else Origin(origin).label
    return f"0x{vector - 1:02x} by {who}" if vector else f"post by {who}"


def outcome_names(found: Findings, rows: Array) -> Named:
    """`unloaded-host`, or `host|unknown`: one of them."""
    return numbered(found.possible[rows].astype(np.int64), _hits_name)


def _hits_name(bits: int) -> str:
    return "|".join(hit.label for hit in Hit if bits >> hit & 1) or "unknown"


def row_names(found: Findings, rows: Array) -> Named:
    """`12`, or `5|9`: rows of the state table."""
    return numbered(
        found.row[rows].astype(np.int64),
        lambda bits: "|".join(row.label for row in Row if bits >> row & 1),
    )
