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

A trace that comes in parts gives the same events: a part adds its own to the tracks.

Names of outcomes are those of FINDINGS.hit and of the JSON; `a|b`: one of them.
"""

from __future__ import annotations

from contextlib import ExitStack
from gzip import GzipFile
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np

from piscope.report.analyzed import Analyzed
from piscope.report.own_part import AnalyzedPart, ChosenPart, WholePart, runs
from piscope.report.perfetto_counters import Counters
from piscope.report.perfetto_cpus import CpuTracks
from piscope.report.perfetto_names import state_names
from piscope.report.perfetto_posts import PostTracks
from piscope.report.perfetto_slices import HeldSlices
from piscope.report.perfetto_tracks import Track, TrackWriter, definitions
from piscope.report.selection import Selection
from piscope.sources.raw import Array
from piscope.tables import Intervals, Vcpu

__all__ = ("PerfettoFile", "write_perfetto")


def write_perfetto(
    file: BinaryIO,
    analysis: Analyzed,
    selection: Selection | None = None,
    *,
    compressed: bool = False,
) -> None:
    """Write an analysis that was made at once; the rest as for `PerfettoFile`."""
    with PerfettoFile(file, selection, compressed=compressed) as perfetto:
        perfetto.add(WholePart(analysis))
        perfetto.finish()


class PerfettoFile:
    """The tracks of the selected vCPUs, of all pCPUs, and the counters.

    Parts are added in order, each of them once, and then it is finished:

        with PerfettoFile(file) as perfetto:
            for part in parts:
                perfetto.add(part)
            perfetto.finish()

    Nothing of a part is held on to but the last slice of each track and the names that
    the file refers to; steps of counters wait in a temporary file.
    """

    def __init__(
        self,
        file: BinaryIO,
        selection: Selection | None = None,
        *,
        compressed: bool = False,
    ) -> None:
        """`compressed`: with gzip, which Perfetto reads as well.

        Raises UsageError where Perfetto's definitions are not installed.
        """
        definitions()
        self._selection = selection or Selection()
        self._files = ExitStack()
        self._file = self._files.enter_context(_gzip(file)) if compressed else file
        self._open: _Open | None = None

    def add(self, part: AnalyzedPart) -> None:
        """Write what is a part's own.

        Raises UsageError where the selection names what the trace does not hold.
        """
        mine = ChosenPart(part, self._selection)
        if self._open is None:
            start_ns = part.analysis.timeline.span_ns[0]
            self._open = _Open(self._file, start_ns, self._files)
        self._open.add(mine)

    def finish(self) -> None:
        """Write what waited for the last part.

        Raises ValueError where none was added.
        """
        if self._open is None:
            raise ValueError("a Perfetto trace needs at least one part")
        self._open.finish()
        self._files.close()

    def __enter__(self) -> PerfettoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._files.close()


_CPUS, _LAST = 1 << 20, 1 << 21  # ranks behind those of the VMs


def _gzip(file: BinaryIO) -> BinaryIO:
    # no name and no time, so that the same analysis gives the same file
    packed = GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0)
    return cast(BinaryIO, packed)


class _Open:
    """A file with its tracks, from the first part on."""

    def __init__(self, file: BinaryIO, start_ns: int, files: ExitStack) -> None:
        self._writer = TrackWriter(file, start_ns)
        self._slices = HeldSlices(self._writer)
        self._cpus = CpuTracks(self._writer, self._slices, _CPUS)
        self._counters = Counters(start_ns, files)
        self._next_flow = 1

    def add(self, part: ChosenPart) -> None:
        posts = PostTracks(part, self._writer, self._next_flow)
        self._next_flow = posts.next_flow
        intervals = part.analysis.timeline.intervals
        own = np.flatnonzero(part.own.intervals(intervals))
        tracks = self._vcpu_tracks(part)
        of_vcpu = runs(intervals.vcpu[own], len(part.chosen))
        for vcpu, track in tracks.items():
            self._add_states(track, intervals, own[of_vcpu[vcpu]])
            posts.of_vcpu(track, vcpu)
        self._cpus.add(part, posts)
        posts.count(self._counters)

    def _vcpu_tracks(self, part: ChosenPart) -> dict[int, Track]:
        about = f"clock {part.analysis.events.info.clock or 'not told'}"
        if self._writer.moved_ns:
            about += f"; all times moved by {self._writer.moved_ns} ns"
        vms: dict[int | None, Track] = {}
        tracks: dict[int, Track] = {}
        for row in part.analysis.timeline.vcpus.rows:
            if not part.chosen[row.vcpu]:
                continue
            if row.vm not in vms:
                name, rank = _vm_name(row), len(vms)
                vms[row.vm] = self._writer.track(name, rank=rank, description=about)
            parent = vms[row.vm]
            tracks[row.vcpu] = self._writer.track(row.label, parent, rank=row.vcpu)
        return tracks

    def _add_states(self, track: Track, i: Intervals, rows: Array) -> None:
        name, names = state_names(i, rows)
        if not len(name):
            return
        # intervals also end where something changes that no name tells, such as the
        # pCPU
        heads = np.flatnonzero(np.append(True, name[1:] != name[:-1]))
        tails = np.append(heads[1:], len(name)) - 1
        begin_ns, end_ns, name = (
            i.start_ns[rows[heads]],
            i.end_ns[rows[tails]],
            name[heads],
        )
        if self._slices.goes_on(track, names[name[0]], int(end_ns[0])):
            begin_ns, end_ns, name = begin_ns[1:], end_ns[1:], name[1:]
        self._slices.add(track, begin_ns, end_ns, name, names)

    def finish(self) -> None:
        self._slices.finish()
        description = (
            "unloaded: sent while the vCPU was not loaded; residual: while it was, in"
            " the host. By known posts only"
        )
        parent = self._writer.track(
            "spurious notifications", rank=_LAST, description=description
        )
        self._counters.write(self._writer, parent)


def _vm_name(row: Vcpu) -> str:
    if row.vm is None:
        return "VM not known"
    return f"vm{row.vm}" + (f", process {row.tgid}" if row.tgid is not None else "")
