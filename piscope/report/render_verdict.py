"""The verdict: what an analysis comes to, in sentences that can be quoted."""

from __future__ import annotations

from piscope.report.render_words import bounds_text
from piscope.report.summary import Bounds, PolicySummary, Removed, Summary

__all__ = ("hidden_windows", "verdict")


def verdict(summary: Summary) -> list[str]:
    """One to three sentences; ranges where the trace leaves a number open."""
    policies = list(summary.policies.values())
    if not policies:
        return []
    if not any(p.unloaded_notifications.max for p in policies):
        return [_nothing(policies), *_residual(policies)]
    if summary.removed is not None:
        return _against(policies[0], policies[1], summary.removed)
    sentences = [
        f"{p.name} sends {_count(p.unloaded_notifications)} to vCPUs that are not"
        f" loaded{_in_brackets(_wrong(p))}."
        for p in policies
    ]
    return sentences if len(policies) > 1 else [*sentences, *_residual(policies)]


def _against(first: PolicySummary, second: PolicySummary, gone: Removed) -> list[str]:
    """The two policies of a patch, before and after."""
    a, b = first.unloaded_notifications, second.unloaded_notifications
    known = Bounds(
        first.known["unloaded_notifications"].max,
        second.known["unloaded_notifications"].max,
    )
    if not known.min and not known.max:
        return [_only_windows(first, second)]
    shown_a, shown_b = _shown(first), _shown(second)
    sentence = (
        f"{first.name} sends {_count(shown_a)} to vCPUs that are not loaded;"
        f" {second.name} sends {_none_or(shown_b)}"
    )
    if gone.total.max:
        of_which = _gone(first, second, gone)
        sentence += f": {bounds_text(gone.total)} removed ({of_which})"
    sentences = [f"{sentence}."]
    both = ((first, a, shown_a), (second, b, shown_b))
    unseen = [
        (total.max - shown.max - policy.lost_windows, policy)
        for policy, total, shown in both
    ]
    lost = [(policy.lost_windows, policy) for policy, _, _ in both]
    more = [
        f"{_up_to(unseen)}, by posts that left no event",
        f"{_up_to(lost)}, in what the trace lost",
    ]
    more = [part for part in more if part[0] != ","]
    if more:
        sentences.append(f"Not excluded: {'; '.join(more)}.")
    return sentences


def _up_to(more: list[tuple[int, PolicySummary]]) -> str:
    return " and ".join(
        f"up to {count:,} more under {policy.name}"
        for count, policy in more
        if count > 0
    )


def _only_windows(first: PolicySummary, second: PolicySummary) -> str:
    a, b = first.unloaded_notifications, second.unloaded_notifications
    most = Bounds(0, max(a.max - b.min, 0))
    return (
        f"{bounds_text(most)} removed: no post into a vCPU that is not loaded is"
        f" visible; under {first.name} {_open_windows(first)}, under {second.name}"
        f" {_open_windows(second)}."
    )


def _shown(policy: PolicySummary) -> Bounds:
    """Known posts; losses can make the least of them uncertain."""
    known = policy.known["unloaded_notifications"]
    return Bounds(min(known.min, policy.unloaded_notifications.min), known.max)


def hidden_windows(policy: PolicySummary) -> int:
    """Windows that may have been open to a notification though no event shows them."""
    more = policy.unloaded_notifications.max - policy.exposure.windows.max
    return max(policy.hidden_windows, more, 0)


def _open_windows(policy: PolicySummary) -> str:
    most, hidden = policy.unloaded_notifications.max, hidden_windows(policy)
    if not most:
        return "none"
    if not hidden:
        return f"{_windows(most)} open to one"
    if hidden >= most:
        return f"no event shows a window that is open to one, up to {most:,} may hide"
    return f"{_windows(most - hidden)} open to one and up to {hidden:,} more may hide"


def _windows(count: int) -> str:
    return "1 window is" if count == 1 else f"{count:,} windows are"


def _nothing(policies: list[PolicySummary]) -> str:
    names = " or ".join(p.name for p in policies)
    if any(p.exposure.windows.max for p in policies):
        why = "windows were open to one, but nothing posted into them"
    else:
        why = "no window is open to one"
    return f"No notification goes to a vCPU that is not loaded under {names}: {why}."


def _residual(policies: list[PolicySummary]) -> list[str]:
    first = policies[0]
    if not first.residual_notifications.max:
        return []
    return [
        f"To loaded vCPUs in the host, which no suppression at the put avoids:"
        f" {_count(first.residual_notifications)} under {first.name}."
    ]


def _gone(first: PolicySummary, second: PolicySummary, gone: Removed) -> str:
    parts = [f"{bounds_text(gone.host_irqs)} host {_plural('IRQ', gone.host_irqs)}"]
    wrong = _wrong(first)
    if second.known["wrong_vcpu"].max == 0:
        parts.append(wrong or "0 wrong-vCPU")
    return ", ".join(parts)


def _wrong(policy: PolicySummary) -> str:
    count = policy.known["wrong_vcpu"]
    if not count.max:
        return ""
    return f"{bounds_text(count)} wrong-vCPU"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _count(bounds: Bounds) -> str:
    return f"{bounds_text(bounds)} {_plural('notification', bounds)}"


def _none_or(bounds: Bounds) -> str:
    return bounds_text(bounds) if bounds.max else "none"


def _plural(noun: str, bounds: Bounds) -> str:
    return noun if bounds.min == bounds.max == 1 else f"{noun}s"
