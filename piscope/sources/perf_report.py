"""What a whole pass over a perf.data shows: gaps, sub-sampling, things left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piscope.sources.perf_abi import PerfAttr, SampleType
from piscope.sources.perf_header import PerfHeader
from piscope.sources.perf_losses import LossLog
from piscope.sources.perf_samples import Tally
from piscope.sources.raw import EventFormat, TraceInfo

__all__ = ("report_pass",)

# Their PERIOD is the time that they report, although every event gives a sample:
# DECLARE_EVENT_CLASS(sched_stat_template) uses __perf_count(delay).
_WEIGHTED_BY_NATURE = "sched_stat_"


def report_pass(
    header: PerfHeader,
    events: Sequence[tuple[str, str]],
    formats: Sequence[EventFormat],
    tally: Tally,
    info: TraceInfo,
    losses: LossLog,
) -> None:
    """Turn a pass's tally into losses, and into `info.cpus`, `tgids` and `notes`."""
    attrs = {a.config: a for a in header.attrs if a.is_tracepoint}
    for index, layout in enumerate(formats):
        if tally.seen[index] and layout.id in attrs:
            _report_sampling(attrs[layout.id], events[index], index, tally, losses)
    for number, count in sorted(tally.unknown_ids.items()):
        losses.add(
            "unknown-event", f"events of id {number}, which has no format", count=count
        )
    for count, what in (
        (tally.damaged, "samples whose values do not fit into them"),
        (tally.unattributed, "samples whose sample_type can't be told"),
        (tally.no_time, "samples without a time"),
    ):
        if count:
            losses.add("damaged", f"{what}; left out", count=count)

    info.cpus = tuple(np.flatnonzero(tally.cpus[:-1]).tolist())
    tgid_of = tally.tgid_of[: tally.highest_tid + 1]
    for tid in np.flatnonzero(tgid_of).tolist():
        info.tgids[tid] = int(tgid_of[tid])
    notes = []
    if tally.other:
        notes.append(f"{tally.other} samples of other than tracepoint events not read")
    if tally.no_cpu:
        notes.append(f"{tally.no_cpu} events do not tell their pCPU (cpu -1)")
    if tally.foreign_tids:
        notes.append(
            f"perf ran in another PID namespace than {tally.foreign_tids} events;"
            " names of threads may be wrong"
        )
    info.notes.extend(note for note in notes if note not in info.notes)


# Whether not every event gave a sample, and how many there may have been.
#
# With a PERIOD in the sample and without -F, the kernel writes a sample for every
# event, even with -c 100: the PERIOD is then the event's own weight, 1 for nearly
# all. Since "events: Don't divide events if it has field period" (v3.2).
def _report_sampling(
    attr: PerfAttr, event: tuple[str, str], index: int, tally: Tally, losses: LossLog
) -> None:
    seen = int(tally.seen[index])
    weight = int(tally.weight[index])
    if attr.freq:
        option = f"-F {attr.period}"
    elif not attr.sample_type & SampleType.PERIOD:
        option = f"-c {attr.period}"
        weight = seen * max(attr.period, 1)
    else:
        option = "a PERIOD other than 1"
        if event[1].startswith(_WEIGHTED_BY_NATURE):
            return
    if weight <= seen and not attr.freq:
        return
    losses.add(
        "sub-sampled",
        f"{':'.join(event)}: {seen} samples ({option}) stand for about {weight} events",
        count=max(weight - seen, 0),
    )
