"""Posts and notifications as Perfetto tracks.

To be read beside `perfetto`, which says where each track stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Findings
from piscope.report.own_part import ChosenPart
from piscope.report.perfetto_counters import Counters
from piscope.report.perfetto_names import (
    numbered,
    outcome_names,
    post_names,
    row_names,
)
from piscope.report.perfetto_tracks import Annotation, Track, TrackWriter
from piscope.report.render_words import exit_reason_name
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason

__all__ = ("PostTracks",)


@dataclass(slots=True)
class _Policy:
    """A policy's findings, ready to be drawn.

    selected  bool[n]  a part's own that the user asked for
    flow      int64[n] from the post to what its notification hit, 0: none was sent
    by_cpu    int64[m] the selected ones that were sent, by pCPU, then time
    cpu       int32[m] their pCPUs
    """

    name: str
    found: Findings
    selected: npt.NDArray[np.bool_]
    flow: npt.NDArray[np.int64]
    by_cpu: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]


class PostTracks:
    """A part's own findings on their way into tracks."""

    def __init__(self, part: ChosenPart, writer: TrackWriter, first_flow: int) -> None:
        """Flows are numbered from `first_flow` on, which is above 0."""
        self._writer = writer
        analysis = part.analysis
        self._timeline, self._stimuli = analysis.timeline, analysis.stimuli
        self._labels = [row.label for row in self._timeline.vcpus.rows]
        self._policies: list[_Policy] = []
        self.next_flow = first_flow
        # the policies' findings are of the same posts, vCPU after vCPU
        self._vcpu, self._ts_ns = np.empty(0, np.int32), np.empty(0, np.int64)
        self._mine = np.empty(0, np.int64)
        for name, result in analysis.results.items():
            found = result.findings
            self._vcpu = self._stimuli.vcpu[found.stimulus]
            self._ts_ns = self._stimuli.ts_ns[found.stimulus]
            self._mine = np.flatnonzero(part.stimuli[found.stimulus])
            selected = part.findings(found)
            sent = np.flatnonzero(selected & (found.cpu >= 0))
            flow = np.zeros(len(found), np.int64)
            flow[sent] = np.arange(self.next_flow, self.next_flow + len(sent))
            self.next_flow += len(sent)
            by_cpu = sent[np.lexsort((self._ts_ns[sent], found.cpu[sent]))]
            cpu = found.cpu[by_cpu]
            self._policies.append(_Policy(name, found, selected, flow, by_cpu, cpu))

    def cpus(self) -> set[int]:
        """The pCPUs that were notified."""
        return {cpu for p in self._policies for cpu in np.unique(p.cpu).tolist()}

    def of_vcpu(self, parent: Track, vcpu: int) -> None:
        """A vCPU's posts, and what became of them under each policy."""
        bounds = np.searchsorted(self._vcpu[self._mine], (vcpu, vcpu + 1))
        mine = self._mine[slice(*bounds.tolist())]
        if not len(mine):
            return
        stimulus = self._policies[0].found.stimulus[mine]
        post = self._stimuli.post[stimulus]
        origin = np.full(len(mine), -1, np.int64)
        origin[post >= 0] = self._timeline.posts.origin[post[post >= 0]]
        name, names = post_names(self._stimuli.vector[stimulus], origin)
        self._writer.instants(
            self._writer.track("posts", parent, rank=0),
            self._ts_ns[mine],
            name,
            names,
            annotations=[
                *(
                    Annotation(p.name, *outcome_names(p.found, mine))
                    for p in self._policies
                ),
                self._later(self._policies[0].found, mine),
            ],
            flows=[p.flow[mine] for p in self._policies],
        )
        for rank, policy in enumerate(self._policies, start=1):
            shown = mine[policy.selected[mine]]
            if len(shown):
                track = self._writer.track(policy.name, parent, rank=rank)
                self._outcomes(track, policy.found, shown)

    def _later(self, found: Findings, mine: Array) -> Annotation:
        """How much later a post may have been that no event shows."""
        w = self._timeline.windows
        window = found.window[mine]
        hidden = (self._stimuli.post[found.stimulus[mine]] < 0) & (window >= 0)
        at = window[hidden]
        open_ns = np.full(len(mine), -1, np.int64)
        open_ns[hidden] = w.load_ns[at] - w.put_ns[at]
        return Annotation("or_up_to_ns_later", open_ns)

    def _outcomes(self, track: Track, found: Findings, mine: Array) -> None:
        name, names = outcome_names(found, mine)
        window = found.window[mine]
        put = np.full(len(mine), -1, np.int64)
        put[window >= 0] = self._timeline.windows.reason[window[window >= 0]]
        code = found.reason[mine].astype(np.int64)
        reason, reasons = numbered(code, lambda number: exit_reason_name(str(number)))
        self._writer.instants(
            track,
            self._ts_ns[mine],
            name,
            names,
            annotations=[
                Annotation("certain", found.certain[mine].astype(np.int64), _NO_YES),
                Annotation("vcpu_was", found.kind[mine].astype(np.int64), _KINDS),
                Annotation("not_loaded_because", put, _REASONS),
                Annotation("exit_reason", np.where(code >= 0, reason, -1), reasons),
                Annotation("state_table_rows", *row_names(found, mine)),
                Annotation("pcpu", found.cpu[mine].astype(np.int64)),
                self._later(found, mine),
            ],
        )

    def on_cpu(self, parent: Track, cpu: int) -> None:
        """The notifications that each policy sent to a pCPU, and what they hit."""
        n = len(self._labels)
        for rank, policy in enumerate(self._policies):
            first, last = np.searchsorted(policy.cpu, (cpu, cpu + 1)).tolist()
            if first == last:
                continue
            mine = policy.by_cpu[first:last]
            outcome, outcomes = outcome_names(policy.found, mine)
            name, names = numbered(
                outcome * n + self._vcpu[mine],
                partial(_hit_name, outcomes, self._labels),
            )
            victim = policy.found.victim[mine].astype(np.int64)
            self._writer.instants(
                self._writer.track(policy.name, parent, rank=rank),
                self._ts_ns[mine],
                name,
                names,
                annotations=[
                    Annotation("taken_by", victim, self._labels),
                    self._later(policy.found, mine),
                ],
                ends=policy.flow[mine],
            )

    def count(self, counters: Counters) -> None:
        """Add what the counters count."""
        for p in self._policies:
            counters.add(p.name, p.found, p.selected, self._ts_ns)


def _hit_name(outcomes: Sequence[str], labels: Sequence[str], key: int) -> str:
    outcome, vcpu = divmod(key, len(labels))
    return f"{outcomes[outcome]}, for {labels[vcpu]}"


_NO_YES = ("no", "yes")
_KINDS = [kind.label for kind in Kind]
_REASONS = [reason.label for reason in PutReason]
