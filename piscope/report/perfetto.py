"""An analysis as a Perfetto trace, for ui.perfetto.dev and trace_processor.

    vm0, process 1890
      vm0/vcpu0          slices: what it did; `?` behind what the trace leaves open
        posts            instants: who posted which vector, with every policy's outcome
        preempt-only     instants: what became of each post under that policy
        suppress-on-put
    pCPUs
      cpu0               slices: whose thread ran
        preempt-only     instants: notifications that were sent there, and what they hit
        suppress-on-put
        lost events      slices
    spurious notifications
      preempt-only       counters: how many so far, proven and not excluded
      suppress-on-put

A flow leads from a post to the notification that it sent, under each policy. A post
that only probes betray stands where its window begins and says how long that is.

Names of outcomes are those of FINDINGS.hit and of the JSON; `a|b`: one of them.
"""

from __future__ import annotations

from contextlib import ExitStack
from gzip import GzipFile
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from piscope.report.analyzed import Analyzed
from piscope.report.cpu_stays import CpuStays, LostTimes, cpu_stays
from piscope.report.perfetto_names import numbered, state_names
from piscope.report.perfetto_posts import PostTracks
from piscope.report.perfetto_tracks import Track, TrackWriter
from piscope.report.selection import Selection
from piscope.tables import Events, Intervals, Timeline, Vcpu

__all__ = ("write_perfetto",)


def write_perfetto(
    file: BinaryIO,
    analysis: Analyzed,
    selection: Selection | None = None,
    *,
    compressed: bool = False,
) -> None:
    """Write the tracks of the selected vCPUs, of all pCPUs, and the counters.

    `compressed`: with gzip, which Perfetto reads as well.

    Raises UsageError where the selection names what the trace does not hold, or where
    Perfetto's definitions are not installed.
    """
    selection = selection or Selection()
    timeline = analysis.timeline
    chosen = selection.of_vcpus(timeline.vcpus)
    with ExitStack() as stack:
        packed = stack.enter_context(_gzip(file)) if compressed else file
        writer = TrackWriter(packed, timeline.span_ns[0])
        posts = PostTracks(analysis, writer, selection)
        _write_vcpus(writer, timeline, posts, chosen, analysis.events.info.clock)
        _write_cpus(writer, timeline, posts, analysis.events, selection)
        posts.counters(
            writer.track(
                "spurious notifications",
                rank=_LAST,
                description="unloaded: sent while the vCPU was not loaded; residual:"
                " while it was, in the host. By known posts only",
            )
        )


_CPUS, _LAST = 1 << 20, 1 << 21  # ranks behind those of the VMs


def _gzip(file: BinaryIO) -> BinaryIO:
    # no name and no time, so that the same analysis gives the same file
    packed = GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0)
    return cast(BinaryIO, packed)


def _write_vcpus(
    writer: TrackWriter,
    timeline: Timeline,
    posts: PostTracks,
    chosen: npt.NDArray[np.bool_],
    clock: str | None,
) -> None:
    about = f"clock {clock or 'not told'}"
    if writer.moved_ns:
        about += f"; all times moved by {writer.moved_ns} ns"
    i = timeline.intervals
    vms: dict[int | None, Track] = {}
    for row in timeline.vcpus.rows:
        if not chosen[row.vcpu]:
            continue
        if row.vm not in vms:
            vms[row.vm] = writer.track(_vm_name(row), rank=len(vms), description=about)
        track = writer.track(row.label, vms[row.vm], rank=row.vcpu)
        own = slice(*np.searchsorted(i.vcpu, (row.vcpu, row.vcpu + 1)).tolist())
        _write_states(writer, track, i, own)
        posts.of_vcpu(track, row.vcpu)


def _write_states(writer: TrackWriter, track: Track, i: Intervals, own: slice) -> None:
    name, names = state_names(i, own)
    begin_ns, end_ns = i.start_ns[own], i.end_ns[own]
    if not len(name) or end_ns[-1] == begin_ns[0]:
        return  # the trace is one instant
    # intervals also end where something changes that no name tells, such as the pCPU
    heads = np.flatnonzero(np.append(True, name[1:] != name[:-1]))
    tails = np.append(heads[1:], len(name)) - 1
    writer.slices(track, begin_ns[heads], end_ns[tails], name[heads], names)


def _vm_name(row: Vcpu) -> str:
    if row.vm is None:
        return "VM not known"
    return f"vm{row.vm}" + (f", process {row.tgid}" if row.tgid is not None else "")


def _write_cpus(
    writer: TrackWriter,
    timeline: Timeline,
    posts: PostTracks,
    events: Events,
    selection: Selection,
) -> None:
    stays = cpu_stays(timeline, events)
    lost_times = LostTimes(events, *timeline.span_ns)
    parent = writer.track("pCPUs", rank=_CPUS)
    labels = [row.label for row in timeline.vcpus.rows]
    for cpu in sorted(posts.cpus().union(stays)):
        if selection.cpus is not None and cpu not in selection.cpus:
            continue
        track = writer.track(f"cpu{cpu}", parent, rank=cpu)
        if cpu in stays:
            _write_stays(writer, track, stays[cpu], labels, events.info.comms)
        posts.on_cpu(track, cpu)
        begin_ns, end_ns = lost_times.of_cpu(cpu)
        if len(begin_ns):
            lost = writer.track("lost events", track, rank=_CPUS)
            nothing = np.zeros(len(begin_ns), np.int64)
            writer.slices(lost, begin_ns, end_ns, nothing, ("lost",))


def _write_stays(
    writer: TrackWriter,
    track: Track,
    stays: CpuStays,
    labels: list[str],
    comms: dict[int, str],
) -> None:
    # where a trace contradicts itself the later one holds
    end_ns = stays.end_ns.copy()
    end_ns[:-1] = np.minimum(end_ns[:-1], stays.begin_ns[1:])
    some = end_ns > stays.begin_ns
    # threads behind all vCPUs; a broken trace may have negative ones
    tid = stays.tid.astype(np.uint32).astype(np.int64) + len(labels)
    key = np.where(stays.vcpu >= 0, stays.vcpu, tid)

    def thread_name(key: int) -> str:
        if key < len(labels):
            return labels[key]
        tid = key - len(labels)
        return "idle" if tid == 0 else f"{comms.get(tid) or 'thread'} [{tid}]"

    name, names = numbered(key[some], thread_name)
    writer.slices(track, stays.begin_ns[some], end_ns[some], name, names)
