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

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from gzip import GzipFile
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from piscope.origins import Origin
from piscope.outcomes import Findings, Hit, Row
from piscope.report.analyzed import UNLOADED, Analyzed
from piscope.report.cpu_stays import CpuStays, cpu_stays, lost_spans
from piscope.report.perfetto_tracks import Annotation, Track, TrackWriter
from piscope.report.render_words import exit_reason_name
from piscope.report.selection import Selection
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason, Vcpu

__all__ = ("COUNTED", "write_perfetto")

COUNTED: dict[str, tuple[Hit, ...]] = {
    "unloaded": UNLOADED,
    "residual": (Hit.HOST,),
}
"""The counters of each policy: known notifications with one of these outcomes."""


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
    chosen = selection.of_vcpus(analysis.timeline.vcpus)
    with ExitStack() as stack:
        packed = file
        if compressed:
            packed = stack.enter_context(_gzip(file))
        writer = TrackWriter(packed, analysis.timeline.span_ns[0])
        out = _Exported(analysis, writer, selection, chosen)
        out.vcpus()
        out.cpus()
        out.counters()


def _gzip(file: BinaryIO) -> BinaryIO:
    # no name and no time, so that the same analysis gives the same file
    packed = GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0)
    return cast(BinaryIO, packed)


class _Exported:
    """One analysis on its way into tracks."""

    def __init__(
        self,
        analysis: Analyzed,
        writer: TrackWriter,
        selection: Selection,
        chosen: npt.NDArray[np.bool_],
    ) -> None:
        self._writer = writer
        self._timeline, self._events = analysis.timeline, analysis.events
        self._selection, self._chosen = selection, chosen
        self._stimuli = analysis.stimuli
        self._findings = {
            name: result.findings for name, result in analysis.results.items()
        }
        self._labels = [row.label for row in self._timeline.vcpus.rows]

    # --- what the vCPUs did

    def vcpus(self) -> None:
        vms: dict[int | None, Track] = {}
        for row in self._timeline.vcpus.rows:
            if not self._chosen[row.vcpu]:
                continue
            if row.vm not in vms:
                vms[row.vm] = self._writer.track(
                    _vm_name(row), rank=len(vms), description=self._moved()
                )
            track = self._writer.track(row.label, vms[row.vm], rank=row.vcpu)
            self._states(track, row.vcpu)
            self._posts(track, row.vcpu)

    def _moved(self) -> str:
        said = f"clock {self._events.info.clock or 'not told'}"
        moved_ns = self._writer.moved_ns
        return f"{said}; all times moved by {moved_ns} ns" if moved_ns else said

    def _states(self, track: Track, vcpu: int) -> None:
        i = self._timeline.intervals
        first, last = np.searchsorted(i.vcpu, (vcpu, vcpu + 1)).tolist()
        own = slice(first, last)
        some = i.end_ns[own] > i.start_ns[own]
        kind = i.kind[own][some].astype(np.int64)
        certain = i.certain[own][some]
        # what KVM handles is told of its own time only
        in_kvm = (kind == Kind.HOST) | (kind == Kind.HOST_IRQS_OFF)
        reason = np.where(in_kvm, i.reason[own][some].astype(np.int64), -1)
        key = (reason + 1) * 2 * len(Kind) + kind * 2 + certain
        name, names = _numbered(key, _state_name)
        self._writer.slices(
            track, i.start_ns[own][some], i.end_ns[own][some], name, names
        )

    def _posts(self, parent: Track, vcpu: int) -> None:
        if not self._findings:
            return
        # the policies' findings are of the same posts
        stimulus = next(iter(self._findings.values())).stimulus
        mine = np.flatnonzero(self._stimuli.vcpu[stimulus] == vcpu)
        if not len(mine):
            return
        ts_ns = self._stimuli.ts_ns[stimulus[mine]]
        post = self._stimuli.post[stimulus[mine]]
        origin = np.full(len(mine), len(Origin), np.int64)  # no event: by hardware
        origin[post >= 0] = self._timeline.posts.origin[post[post >= 0]]
        vector = self._stimuli.vector[stimulus[mine]].astype(np.int64)
        name, names = _numbered((vector + 1) * (len(Origin) + 1) + origin, _post_name)
        self._writer.instants(
            self._writer.track("posts", parent, rank=0),
            ts_ns,
            name,
            names,
            annotations=[
                *(
                    Annotation(policy, *_outcomes(found, mine))
                    for policy, found in self._findings.items()
                ),
                self._window_ns(mine, post),
            ],
            flows=[self._flow(policy)[mine] for policy in self._findings],
        )
        for rank, (policy, found) in enumerate(self._findings.items(), start=1):
            shown = mine[self._selected(found)[mine]]
            if len(shown):
                track = self._writer.track(policy, parent, rank=rank)
                self._outcomes(track, found, shown)

    def _window_ns(self, mine: Array, post: Array) -> Annotation:
        """How long after the instant a post may have been that no event shows."""
        found = next(iter(self._findings.values()))
        w = self._timeline.windows
        open_ns = np.full(len(mine), -1, np.int64)
        hidden = (post < 0) & (found.window[mine] >= 0)
        window = found.window[mine][hidden]
        open_ns[hidden] = w.load_ns[window] - w.put_ns[window]
        return Annotation("or_up_to_ns_later", open_ns)

    def _outcomes(self, track: Track, found: Findings, mine: Array) -> None:
        name, names = _outcomes(found, mine)
        stimulus = found.stimulus[mine]
        window = found.window[mine]
        put = np.full(len(mine), -1, np.int64)
        put[window >= 0] = self._timeline.windows.reason[window[window >= 0]]
        reason, reasons = _numbered(
            found.reason[mine].astype(np.int64),
            lambda code: exit_reason_name(str(code)),
        )
        row, rows = _numbered(found.row[mine].astype(np.int64), _rows_name)
        self._writer.instants(
            track,
            self._stimuli.ts_ns[stimulus],
            name,
            names,
            annotations=[
                Annotation("certain", found.certain[mine].astype(np.int64), _YES_NO),
                Annotation("vcpu_was", found.kind[mine].astype(np.int64), _KINDS),
                Annotation("not_loaded_because", put, _REASONS),
                Annotation(
                    "exit_reason",
                    np.where(found.reason[mine] >= 0, reason, -1),
                    reasons,
                ),
                Annotation("state_table_rows", row, rows),
                Annotation("pcpu", found.cpu[mine].astype(np.int64)),
            ],
        )

    def _selected(self, found: Findings) -> npt.NDArray[np.bool_]:
        mine = self._chosen[self._stimuli.vcpu[found.stimulus]]
        selected: npt.NDArray[np.bool_] = mine & self._selection.of_cpus(found.cpu)
        return selected

    def _flow(self, policy: str) -> npt.NDArray[np.int64]:
        """int64[findings]: the flow from a post to what it hit, 0: nothing was sent."""
        found = self._findings[policy]
        n, place = len(found), list(self._findings).index(policy)
        flow = np.arange(1 + place * n, 1 + (place + 1) * n, dtype=np.int64)
        flow[(found.cpu < 0) | ~self._selected(found)] = 0
        return flow

    # --- the pCPUs

    def cpus(self) -> None:
        stays = cpu_stays(self._timeline, self._events)
        parent = self._writer.track("pCPUs", rank=1 << 20)
        for cpu in self._notified(stays):
            if self._selection.cpus is not None and cpu not in self._selection.cpus:
                continue
            track = self._writer.track(f"cpu{cpu}", parent, rank=cpu)
            if cpu in stays:
                self._stays(track, stays[cpu])
            for rank, (policy, found) in enumerate(self._findings.items()):
                self._notifications(track, policy, found, cpu, rank)
            begin_ns, end_ns = lost_spans(self._events, *self._timeline.span_ns, cpu)
            if len(begin_ns):
                lost = self._writer.track("lost events", track, rank=1 << 10)
                nothing = np.zeros(len(begin_ns), np.int64)
                self._writer.slices(lost, begin_ns, end_ns, nothing, ("lost",))

    def _notified(self, stays: dict[int, CpuStays]) -> list[int]:
        cpus = set(stays)
        for found in self._findings.values():
            cpus.update(np.unique(found.cpu[found.cpu >= 0]).tolist())
        return sorted(cpus)

    def _stays(self, track: Track, stays: CpuStays) -> None:
        # where a trace contradicts itself the later one holds
        end_ns = stays.end_ns.copy()
        end_ns[:-1] = np.minimum(end_ns[:-1], stays.begin_ns[1:])
        some = end_ns > stays.begin_ns
        # a thread behind all vCPUs; a broken trace may have negative ones
        tid = stays.tid.astype(np.uint32).astype(np.int64) + len(self._labels)
        key = np.where(stays.vcpu >= 0, stays.vcpu, tid)
        name, names = _numbered(key[some], self._thread_name)
        self._writer.slices(track, stays.begin_ns[some], end_ns[some], name, names)

    def _thread_name(self, key: int) -> str:
        if key < len(self._labels):
            return self._labels[key]
        tid = key - len(self._labels)
        comm = self._events.info.comms.get(tid)
        return "idle" if tid == 0 else f"{comm or 'thread'} [{tid}]"

    def _notifications(
        self, parent: Track, policy: str, found: Findings, cpu: int, rank: int
    ) -> None:
        mine = np.flatnonzero((found.cpu == cpu) & self._selected(found))
        if not len(mine):
            return
        ts_ns = self._stimuli.ts_ns[found.stimulus[mine]]
        order = np.argsort(ts_ns, kind="stable")
        mine, ts_ns = mine[order], ts_ns[order]
        outcome, outcomes = _outcomes(found, mine)
        vcpu = self._stimuli.vcpu[found.stimulus[mine]].astype(np.int64)
        name, names = _numbered(
            outcome * len(self._labels) + vcpu,
            lambda key: (
                f"{outcomes[key // len(self._labels)]}, for "
                f"{self._labels[key % len(self._labels)]}"
            ),
        )
        self._writer.instants(
            self._writer.track(policy, parent, rank=rank),
            ts_ns,
            name,
            names,
            annotations=[
                Annotation(
                    "taken_by", found.victim[mine].astype(np.int64), self._labels
                )
            ],
            ends=self._flow(policy)[mine],
        )

    # --- how many so far

    def counters(self) -> None:
        parent = self._writer.track(
            "spurious notifications",
            rank=1 << 21,
            description="unloaded: sent while the vCPU was not loaded; residual: while"
            " it was, in the host. By known posts only",
        )
        for place, (policy, found) in enumerate(self._findings.items()):
            group = self._writer.track(policy, parent, rank=place)
            selected = self._selected(found)
            rank = 0
            for what, hits in COUNTED.items():
                for surely, which in (
                    ("proven", found.surely(*hits)),
                    ("not excluded", found.maybe(*hits)),
                ):
                    track = self._writer.track(
                        f"{what}, {surely}",
                        group,
                        rank=rank,
                        counter_unit="notifications",
                    )
                    rank += 1
                    stimulus = found.stimulus[which & selected]
                    ts_ns = np.sort(self._stimuli.ts_ns[stimulus])
                    # all of one instant are one step; the counter begins at 0
                    at_ns, count = np.unique(ts_ns, return_counts=True)
                    first_ns = self._timeline.span_ns[0]
                    self._writer.counter(
                        track,
                        np.append(first_ns, at_ns),
                        np.append(0, np.cumsum(count)),
                    )


_YES_NO = ("no", "yes")
_KINDS = [kind.label for kind in Kind]
_REASONS = [reason.label for reason in PutReason]


def _vm_name(row: Vcpu) -> str:
    if row.vm is None:
        return "VM not known"
    return f"vm{row.vm}" + (f", process {row.tgid}" if row.tgid is not None else "")


def _state_name(key: int) -> str:
    reason, rest = divmod(key, 2 * len(Kind))
    kind, certain = Kind(rest // 2), rest % 2
    name = kind.label if certain or kind == Kind.UNKNOWN else f"{kind.label}?"
    return f"{name} ({exit_reason_name(str(reason - 1))})" if reason else name


def _post_name(key: int) -> str:
    vector, origin = divmod(key, len(Origin) + 1)
    who = "hardware, unseen" if origin == len(Origin) else Origin(origin).label
    return f"0x{vector - 1:02x} by {who}" if vector else f"post by {who}"


def _outcomes(found: Findings, mine: Array) -> tuple[Array, Sequence[str]]:
    return _numbered(found.possible[mine].astype(np.int64), _hits_name)


def _hits_name(bits: int) -> str:
    return "|".join(hit.label for hit in Hit if bits >> hit & 1) or "unknown"


def _rows_name(bits: int) -> str:
    return "|".join(row.label for row in Row if bits >> row & 1)


_TABLE = 1 << 20  # keys up to here are numbered by a table, without a sort


def _numbered(
    keys: Array, name: Callable[[int], str]
) -> tuple[npt.NDArray[np.int64], Sequence[str]]:
    """int64[n]: the keys' places among the different ones, and the names of those."""
    if not len(keys):
        return np.zeros(0, np.int64), []
    low, high = int(keys.min()), int(keys.max())
    if high - low < _TABLE:
        there = np.bincount(keys - low) > 0
        different = np.flatnonzero(there) + low
        number = (np.cumsum(there) - 1)[keys - low]
    else:
        different, number = np.unique(keys, return_inverse=True)
    return number, [name(key) for key in different.tolist()]
