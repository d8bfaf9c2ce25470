"""What a summary counts, added up part by part, and made into the summary at last."""

from __future__ import annotations

from piscope import __version__
from piscope.report.gaps import GapsTally
from piscope.report.own_part import AnalyzedPart, ChosenPart
from piscope.report.selection import Selection
from piscope.report.summarize_handlers import HandlersTally
from piscope.report.summarize_observed import ObservedTally
from piscope.report.summarize_policy import PolicyTally
from piscope.report.summarize_question import QuestionTally
from piscope.report.summarize_removed import RemovedTally
from piscope.report.summarize_trace import TraceTally
from piscope.report.summarize_vcpus import KnownTime, VcpusTally
from piscope.report.summary import SCHEMA_VERSION, Summary
from piscope.tables import Vcpu

__all__ = ("KnownTime", "Tallies")


class Tallies:
    """Counts of the parts of one analysis, added in the order of the trace.

    They are as many as vCPUs, reasons and pCPUs, however long the trace is; no part is
    held on to. Sums come before anything is rounded, clipped, left out or sorted, so
    that the summary is the same for any split.

    known_time  how much of the vCPUs' time is known
    """

    def __init__(self, selection: Selection | None = None) -> None:
        self._selection = selection or Selection()
        self._trace = TraceTally()
        self._question = QuestionTally()
        self._vcpus: VcpusTally | None = None
        self._chosen: list[Vcpu] = []
        self._policies: dict[str, PolicyTally] = {}
        self._removed = RemovedTally()
        self._handlers = HandlersTally()
        self._observed = ObservedTally()
        self._gaps = GapsTally()
        self.known_time = KnownTime()

    def add(self, part: AnalyzedPart) -> None:
        """Count what is a part's own.

        Raises UsageError where the selection names what the trace does not hold.
        """
        mine = ChosenPart(part, self._selection)
        vcpus = part.analysis.timeline.vcpus
        self._chosen = [row for row in vcpus.rows if mine.chosen[row.vcpu]]
        if self._vcpus is None:
            self._vcpus = VcpusTally(len(vcpus))
        for name, result in part.analysis.results.items():
            if name not in self._policies:
                self._policies[name] = PolicyTally(len(vcpus))
            self._policies[name].add(mine, result)
        for tally in (
            self._trace,
            self._question,
            self._vcpus,
            self._removed,
            self._handlers,
            self._observed,
            self._gaps,
        ):
            tally.add(mine)
        self.known_time.add(part.analysis.timeline, part.own)

    def finish(self) -> Summary:
        """The summary of the parts that were added.

        Raises ValueError where none was.
        """
        trace = self._trace.finish()
        summary = Summary(
            schema_version=SCHEMA_VERSION,
            piscope_version=__version__,
            trace=trace,
            question=self._question.finish(),
            vcpus=self._vcpus.finish(self._chosen) if self._vcpus else [],
            policies={
                name: tally.finish(self._chosen, trace.captured_policy)
                for name, tally in self._policies.items()
            },
            removed=self._removed.finish(),
            narrowed=self._selection.as_text(),
            handlers=self._handlers.finish(self._policies),
            observed=self._observed.finish(),
        )
        summary.cannot_tell = self._gaps.finish(summary)
        return summary
