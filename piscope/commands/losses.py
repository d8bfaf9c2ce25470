"""What a trace does not know, in lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from piscope.sources.raw import Loss

__all__ = ("loss_lines",)

_MEANINGS = {
    "missed-events": "the ring buffer lost events",
    "overwritten": "the ring buffer wrapped, the older events are gone",
    "lost-record": "the recorder lost events",
    "lost-samples": "the kernel lost samples",
    "cpustat-mismatch": "the recorder counted more events than the file holds",
    "truncated": "the file ends before it should",
    "damaged": "bytes that make no sense were skipped",
    "unparsed-line": "lines that no known shape fits",
    "unknown-event": "events whose format the file does not describe",
    "sub-sampled": "not every event was recorded",
}
_MOST_CPUS = 8


def loss_lines(losses: Iterable[Loss]) -> Iterator[str]:
    """One line a cause: meaning, how many (at least, where some are not counted),
    on which pCPUs, and the first one's detail.
    """
    by_cause: dict[str, list[Loss]] = {}
    for loss in losses:
        by_cause.setdefault(loss.cause, []).append(loss)
    for cause, found in by_cause.items():
        counted = sum(loss.count or 0 for loss in found)
        at_least = "at least " if any(loss.count is None for loss in found) else ""
        many = f": {at_least}{counted:,}" if counted else ""
        cpus = sorted({loss.cpu for loss in found if loss.cpu is not None})
        where = f", CPU {_list(cpus)}" if cpus else ""
        places = f", in {len(found):,} places" if len(found) > max(len(cpus), 1) else ""
        detail = next((loss.detail for loss in found if loss.detail), "")
        meaning = _MEANINGS.get(cause, cause)
        yield f"{meaning}{many}{where}{places}{f' ({detail})' if detail else ''}"


def _list(cpus: list[int]) -> str:
    shown = ",".join(map(str, cpus[:_MOST_CPUS]))
    return f"{shown},... ({len(cpus)} of them)" if len(cpus) > _MOST_CPUS else shown
