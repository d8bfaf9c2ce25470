"""What each pCPU did, as Perfetto tracks; of a trace in parts, one after another.

To be read beside `perfetto`, which says where each track stands.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from piscope.report.cpu_stays import CpuStays, LostTimes, cpu_stays
from piscope.report.own_part import ChosenPart
from piscope.report.perfetto_names import numbered
from piscope.report.perfetto_posts import PostTracks
from piscope.report.perfetto_slices import HeldSlices
from piscope.report.perfetto_tracks import Track, TrackWriter

__all__ = ("CpuTracks",)

_LOST_RANK = 1 << 20  # behind the policies


class CpuTracks:
    """Whose threads ran, what was sent there, and when events were lost."""

    def __init__(self, writer: TrackWriter, slices: HeldSlices, rank: int) -> None:
        self._writer, self._slices, self._rank = writer, slices, rank
        self._tracks: dict[int, Track] = {}
        # of vCPUs whose own intervals tell where they are: the pCPU, and until when
        self._last: dict[int, tuple[int, int]] = {}

    def add(self, part: ChosenPart, posts: PostTracks) -> None:
        """Add what is a part's own, of the selected pCPUs."""
        timeline, events = part.analysis.timeline, part.analysis.events
        stays = cpu_stays(timeline, events, part.own)
        parent = self._writer.track("pCPUs", rank=self._rank)
        for cpu in sorted(posts.cpus().union(stays)):
            if part.selection.cpus is not None and cpu not in part.selection.cpus:
                continue
            if cpu not in self._tracks:
                self._tracks[cpu] = self._declared(part, parent, cpu)
            if cpu in stays:
                self._add_stays(part, cpu, stays[cpu])
            posts.on_cpu(self._tracks[cpu], cpu)
        self._last.update(_last_of(stays))

    def _declared(self, part: ChosenPart, parent: Track, cpu: int) -> Track:
        """The track, with all that was lost there: every part tells the whole's."""
        track = self._writer.track(f"cpu{cpu}", parent, rank=cpu)
        lost_times = LostTimes(part.analysis.events, *part.analysis.timeline.span_ns)
        begin_ns, end_ns = lost_times.of_cpu(cpu)
        if len(begin_ns):
            lost = self._writer.track("lost events", track, rank=_LOST_RANK)
            nothing = np.zeros(len(begin_ns), np.int64)
            self._writer.slices(lost, begin_ns, end_ns, nothing, ("lost",))
        return track

    def _add_stays(self, part: ChosenPart, cpu: int, stays: CpuStays) -> None:
        labels = [row.label for row in part.analysis.timeline.vcpus.rows]
        comms = part.analysis.events.info.comms
        track = self._tracks[cpu]
        if not stays.by_switch:
            stays = self._begun(track, cpu, stays, labels)
        # threads behind all vCPUs; a broken trace may have negative ones
        tid = stays.tid.astype(np.uint32).astype(np.int64) + len(labels)
        key = np.where(stays.vcpu >= 0, stays.vcpu, tid)

        def thread_name(key: int) -> str:
            if key < len(labels):
                return labels[key]
            tid = key - len(labels)
            return "idle" if tid == 0 else f"{comms.get(tid) or 'thread'} [{tid}]"

        name, names = numbered(key, thread_name)
        # where a trace contradicts itself the later one holds
        self._slices.add(track, stays.begin_ns, stays.end_ns, name, names)

    def _begun(
        self, track: Track, cpu: int, stays: CpuStays, labels: list[str]
    ) -> CpuStays:
        """Without those that the part before began, which go on unless another came."""
        begun = np.ones(len(stays.vcpu), np.bool_)
        vcpus, firsts = np.unique(stays.vcpu, return_index=True)
        for vcpu, at in zip(vcpus.tolist(), firsts.tolist(), strict=True):
            if self._last.get(vcpu) == (cpu, int(stays.begin_ns[at])):
                self._slices.goes_on(track, labels[vcpu], int(stays.end_ns[at]))
                begun[at] = False
        return stays.only(begun)


def _last_of(stays: Mapping[int, CpuStays]) -> dict[int, tuple[int, int]]:
    """By vCPU: where the intervals put it last, and until when."""
    last: dict[int, tuple[int, int]] = {}
    for cpu, found in stays.items():
        if found.by_switch:
            continue
        vcpus, firsts = np.unique(found.vcpu[::-1], return_index=True)
        until_ns = found.end_ns[::-1][firsts]
        for vcpu, end_ns in zip(vcpus.tolist(), until_ns.tolist(), strict=True):
            if vcpu not in last or last[vcpu][1] < end_ns:
                last[vcpu] = cpu, end_ns
    return last
