"""From an open trace to its VM-exits, counted and timed: a shorter arrow.

sources -> events -> timeline.exits -> report

A long trace goes that way in slices, each with what it needs of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from piscope.events.catalog import CATALOG, PROBES
from piscope.report.exit_names import exit_names
from piscope.report.exit_report import ExitReport
from piscope.report.selection import Selection
from piscope.report.summarize_exits import ExitsTally, Sort, summarize_exits
from piscope.slices.trace import SLICE_ROWS, WHOLE_ROWS, SlicedTrace
from piscope.sources.raw import Source, Wanted
from piscope.timeline.exits import build_exits, refuse
from piscope.timeline.vcpus import find_vcpus

__all__ = ("report_exits",)


def report_exits(
    source: Source,
    *,
    selection: Selection | None = None,
    sort: Sort = "time",
    outliers: int = 5,
    ignore: tuple[str, ...] = (),
    start_ns: int | None = None,
    end_ns: int | None = None,
    tsc_khz: int | None = None,
    rereadable: bool = False,
    whole_rows: int = WHOLE_ROWS,
    slice_rows: int = SLICE_ROWS,
    progress: Callable[[str], None] = lambda _: None,
) -> ExitReport:
    """Report the VM-exits of one open trace.

    `ignore` are patterns of events to treat as absent; `start_ns` and `end_ns` narrow
    what is read, half-open; `outliers` is how many to list; `tsc_khz` is the frequency
    of a raw x86-tsc clock; `progress` is told the name of each stage as it begins.
    A trace of more than `whole_rows` events that is `rereadable` is read three times,
    in slices; any other at once.

    Raises UnanswerableError for a trace whose exits can't be timed, and UsageError
    where the selection names what the trace does not hold.
    """
    progress("reading")
    wanted = Wanted(_fields(), ignore=ignore, start_ns=start_ns, end_ns=end_ns)
    trace = SlicedTrace(source, wanted, slice_rows, tsc_khz)
    events = trace.hold(whole_rows if rereadable else sys.maxsize)
    names = exit_names(source.formats.get("kvm:kvm_exit"))
    if events is not None:
        progress("timeline")
        timeline = build_exits(events)
        progress("summary")
        return summarize_exits(
            events, timeline, names, selection=selection, sort=sort, outliers=outliers
        )
    telling = trace.telling()
    refuse(telling)
    vcpus = find_vcpus(telling)
    tally = ExitsTally(vcpus, names, selection, sort=sort, outliers=outliers)
    progress("looking around")
    trace.look_around(vcpus, telling.losses)
    progress("timeline")
    for part in trace.slices():
        assert part.scope is not None
        tally.add(part, build_exits(part), part.scope.own)
    progress("summary")
    return tally.finish()


_QUESTIONS = {"timeline", "put-reason", "userspace", "exits"}
_IN_KVM = {"kvm_pio", "kvm_mmio", "kvm_page_fault", "kvm_inj_virq", "kvm_eoi"}
_UNUSED = {"intr_info", "info2", "ns", "waited", "valid", "reason", "errno"}


def _fields() -> dict[str, tuple[str, ...] | None]:
    # What pairing and INTERVALS need; a budget does not part host-irqs-off from host.
    wanted: dict[str, tuple[str, ...] | None] = {
        t.key: tuple(name for name in t.fields if name not in _UNUSED)
        for t in CATALOG
        if _QUESTIONS & set(t.needed_for) or t.name in _IN_KVM
    }
    wanted.update(dict.fromkeys(PROBES))
    wanted["ftrace:function"] = ("ip", "parent_ip")
    return wanted
