"""What a trace.dat lacks: by its sub-buffers' flags, and by the recorder's counts.

Either can be silent where the other speaks. A flag says where events were lost and
perhaps how many; the counts say how many were there, for the whole recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from piscope.sources.loss_log import LossLog
from piscope.sources.raw import Loss
from piscope.sources.trace_dat_batches import Lane, Part
from piscope.sources.trace_dat_located import Located
from piscope.sources.trace_dat_options import CpuStat

__all__ = ("note_cuts", "note_page_losses", "note_stat_losses", "note_unknown_events")


def note_page_losses(located: Located, log: LossLog) -> None:
    """Note what the sub-buffers of a batch say they lack, and what of them is damaged.

    To be called while the lanes' `last_ns` is still that before the batch.
    """
    for part, page, loss in located.batch.gaps:
        event = int(located.first[min(page, len(located.first) - 1)])
        inside = event < located.first[part.end]
        end_ns = int(located.ts_ns[event]) if inside else part.lane.next_ns
        log.add(replace(loss, start_ns=located.before(part, event), end_ns=end_ns))
    pages = located.pages
    marked = np.flatnonzero(pages.missed | pages.damaged | pages.cut)
    if len(marked) == 0:
        return
    starts = [part.first for part in located.batch.parts]
    owners = np.searchsorted(starts, marked, side="right") - 1
    for page, owner in zip(marked.tolist(), owners.tolist(), strict=True):
        part = located.batch.parts[owner]
        if pages.missed[page]:
            _note_missed(located, part, page, log)
        # That a lane's data end too early is noted once, when they have.
        cut = pages.cut[page] and not _ends_early(part.lane)
        if pages.damaged[page] or cut:
            _note_broken(located, part, page, log)


def _ends_early(lane: Lane) -> bool:
    return lane.missing_bytes > 0 or lane.pages.cut is not None


def note_cuts(lanes: Sequence[Lane], log: LossLog) -> None:
    """Note which lanes' data end before they should; after a whole pass."""
    for lane in lanes:
        if not _ends_early(lane):
            continue
        where = f" of buffer {lane.buffer!r}" if lane.buffer else ""
        detail = f"data of pCPU {lane.cpu}{where}"
        if lane.missing_bytes:
            detail += f" lack their last {lane.missing_bytes} bytes"
        if lane.pages.cut is not None:
            detail += f": {lane.pages.cut}"
        cut = Loss("truncated", cpu=lane.cpu, start_ns=lane.last_ns, detail=detail)
        log.add(cut)


def _note_missed(located: Located, part: Part, page: int, log: LossLog) -> None:
    pages, lane = located.pages, part.lane
    first = int(located.first[page])
    count = int(pages.missed_count[page]) if pages.missed_known[page] else None
    has_events = located.first[page + 1] > first
    lane.missed_known += count or 0
    lane.missed_inside |= located.before(part, first) is not None
    log.add(
        Loss(
            "missed-events",
            cpu=lane.cpu,
            start_ns=located.before(part, first),
            end_ns=int(located.ts_ns[first] if has_events else located.page_ns[page]),
            count=count,
            detail=f"lost before the sub-buffer at byte {located.batch.places[page]}",
        )
    )


def _note_broken(located: Located, part: Part, page: int, log: LossLog) -> None:
    pages = located.pages
    place = int(located.batch.places[page])
    end = int(located.first[page + 1])
    if pages.damaged[page]:
        what = (
            f"says that it has {int(pages.used[page])} bytes of data"
            if pages.used[page] > located.batch.page_size
            else f"can't be read from its byte {int(pages.stop[page])} on"
        )
        detail = f"the sub-buffer at byte {place} {what}"
    else:
        detail = (
            f"of the sub-buffer at byte {place}, the file has "
            f"{int(located.batch.available[page])} of {located.batch.page_size} bytes"
        )
    log.add(
        Loss(
            "damaged" if pages.damaged[page] else "truncated",
            cpu=part.lane.cpu,
            start_ns=located.before(part, end),
            end_ns=located.after(part, page),
            detail=detail,
        )
    )


def note_stat_losses(
    lanes: Sequence[Lane],
    stats: Mapping[str, Mapping[int, CpuStat]],
    cpus: frozenset[int] | None,
    log: LossLog,
) -> None:
    """Compare the recorder's counts of each pCPU with what its lane held.

    To be called after a whole pass over `cpus` (None: all). A pCPU without a lane
    held nothing.
    """
    by_cpu = {(lane.buffer, lane.cpu): lane for lane in lanes}
    for buffer, own in stats.items():
        where = f" of buffer {buffer!r}" if buffer else ""
        for cpu, stat in own.items():
            if cpus is None or cpu in cpus:
                _note_stat(cpu, stat, by_cpu.get((buffer, cpu)), where, log)


def _note_stat(
    cpu: int, stat: CpuStat, lane: Lane | None, where: str, log: LossLog
) -> None:
    events = 0 if lane is None else lane.events
    recorded = stat.recorded
    if recorded is not None and recorded > events:
        log.add(
            Loss(
                "cpustat-mismatch",
                cpu=cpu,
                count=recorded - events,
                detail=f"the recorder counted {recorded} events{where}, "
                f"the file holds {events}",
            )
        )
    # Flags may have told of the same overrun already, with its position.
    overrun = (stat.overrun or 0) - (0 if lane is None else lane.missed_known)
    if overrun > 0:
        log.add(
            Loss(
                "overwritten",
                cpu=cpu,
                end_ns=None if lane is None or lane.missed_inside else lane.first_ns,
                count=overrun,
                detail=f"the buffer{where} wrapped: {stat.overrun} events overrun",
            )
        )
    for count, what in (
        (stat.commit_overrun, "commit overrun"),
        (stat.dropped_events, "dropped events"),
    ):
        if count:
            detail = f"the recorder counted {count} {what}{where}"
            log.add(Loss("missed-events", cpu=cpu, count=count, detail=detail))


def note_unknown_events(
    counts: npt.NDArray[np.int64], known: Iterable[int], log: LossLog
) -> None:
    """Note the ids that occur in events and have no format."""
    unknown = counts.copy()
    unknown[list(known)] = 0
    for number in np.flatnonzero(unknown).tolist():
        count = int(unknown[number])
        log.add(
            Loss(
                "unknown-event", count=count, detail=f"event id {number} has no format"
            )
        )
