"""What became of the posts, and what it cost, policies side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from piscope.report.json_form import Difference, difference
from piscope.report.render_layout import Grid, heading, note
from piscope.report.render_words import (
    COST_WORDS,
    OUTCOME_WORDS,
    REASON_WORDS,
    STATE_WORDS,
    bounds_text,
    difference_text,
    exit_reason_name,
)
from piscope.report.summary import Bounds, PolicySummary, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("cost_section", "outcome_section")

_MOST_REASONS = 5  # VM-exit reasons that are listed
_Key = Callable[[PolicySummary | Difference], Bounds]


def outcome_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """Known posts by what became of them, then what can't be excluded as well."""
    question = summary.question
    known = question.as_hardware + question.as_software + question.from_windows
    yield heading("What became of the notifications")
    for i, policies in enumerate(_side_by_side(summary)):
        if i:
            yield note("")
        sheet = _Sheet(f"known posts: {known:,}", policies)
        if known or any(_some(p.outcomes) for p in policies):
            _outcomes(sheet)
            sheet.blank()
        sheet.title("with all that can't be excluded")
        sheet.row("to vCPUs not loaded", lambda p: p.unloaded_notifications)
        sheet.row("of them wrong vCPU", lambda p: p.wrong_vcpu, depth=1)
        sheet.row("to loaded vCPUs in the host", lambda p: p.residual_notifications)
        yield sheet.grid.render(width)
    for policy in summary.policies.values():
        if policy.as_if:
            yield note(f"{policy.name}: {policy.as_if}")
    if len(summary.policies) > 1 and known:
        yield note(
            "A range: what the trace proves, and what it can't exclude. Negative: fewer"
            " than the first policy."
        )


def _outcomes(sheet: _Sheet) -> None:
    for label in ("guest", "latched", "wakeup"):
        sheet.row(OUTCOME_WORDS[label], _in("outcomes", label))
    sheet.row(OUTCOME_WORDS["host"], _in("known", "residual_notifications"))
    for label, words in STATE_WORDS.items():
        sheet.row(words, _in("residual_by_state", label), depth=1, unless_zero=True)
    exits = sheet.most("residual_by_exit_reason", _MOST_REASONS)
    for code in exits:
        sheet.row(
            f"after exit {exit_reason_name(code)}",
            _in("residual_by_exit_reason", code),
            depth=1,
            unless_zero=True,
        )
    sheet.row("IRQs that the host takes", _host_irqs, unless_zero=True)
    sheet.row("latched with another", _coalesced, depth=1, unless_zero=True)
    sheet.row("sent, vCPU not loaded", _in("known", "unloaded_notifications"))
    for label in ("unloaded-host", "wrong-vcpu"):
        sheet.row(OUTCOME_WORDS[label], _in("outcomes", label), depth=1)
    for label, words in REASON_WORDS.items():
        sheet.row(words, _in("unloaded_by_reason", label), depth=1, unless_zero=True)
    for label in ("silent-on", "silent-sn"):
        sheet.row(OUTCOME_WORDS[label], _in("outcomes", label))
    for label in ("guest-exit", "silent-pir", "software", "unknown"):
        sheet.row(OUTCOME_WORDS[label], _in("outcomes", label), unless_zero=True)


def cost_section(summary: Summary, width: int) -> Iterator[RenderableType]:
    """What the policies' loads and puts cost."""
    yield heading("What it costs: loads and puts of the vCPUs")
    for i, policies in enumerate(_side_by_side(summary)):
        if i:
            yield note("")
        sheet = _Sheet("", policies)
        for name, words in COST_WORDS.items():
            vain = name == "empty_scans"
            sheet.row(words, _in("costs", name), depth=int(vain), unless_zero=vain)
        yield sheet.grid.render(width)


def _side_by_side(summary: Summary) -> Iterator[list[PolicySummary]]:
    """Each policy beside the first one, or the only one alone."""
    first, *others = summary.policies.values()
    if not others:
        yield [first]
    for other in others:
        yield [first, other]


class _Sheet:
    """A grid of counts: one column a policy, and the difference of two."""

    def __init__(self, title: str, policies: list[PolicySummary]) -> None:
        self._policies = policies
        names = [policy.name for policy in policies]
        columns = [title, *names]
        self._difference: Difference | None = None
        if len(policies) == 2:
            self._difference = difference(*policies)
            columns.append("difference")
        self.grid = Grid(columns)

    def row(
        self, words: str, key: _Key, *, depth: int = 0, unless_zero: bool = False
    ) -> None:
        counts = [key(policy) for policy in self._policies]
        if unless_zero and not any(count.max for count in counts):
            return
        cells = [bounds_text(count) for count in counts]
        if self._difference is not None:
            same = counts[0] == counts[1] and counts[0].min != counts[0].max
            cells.append(difference_text(key(self._difference), same_range=same))
        self.grid.add(words, *cells, depth=depth)

    def title(self, words: str) -> None:
        self.grid.add(words, *[""] * (len(self.grid.headings) - 1))

    def blank(self) -> None:
        self.title("")

    def most(self, name: str, count: int) -> list[str]:
        """The keys of a dict with the largest counts, largest first."""
        largest: dict[str, int] = {}
        for policy in self._policies:
            for key, bounds in getattr(policy, name).items():
                largest[key] = max(largest.get(key, 0), bounds.max)
        return sorted(largest, key=lambda key: (-largest[key], key))[:count]


def _in(name: str, key: str) -> _Key:
    def value(of: PolicySummary | Difference) -> Bounds:
        counts: Mapping[str, Bounds] = getattr(of, name)
        return counts.get(key, Bounds())

    return value


def _host_irqs(of: PolicySummary | Difference) -> Bounds:
    return of.host_irqs


def _coalesced(of: PolicySummary | Difference) -> Bounds:
    return of.coalesced


def _some(counts: Mapping[str, Bounds]) -> bool:
    return any(bounds.max for bounds in counts.values())
