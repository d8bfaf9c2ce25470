"""Accounts of several captures as one Markdown table, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from piscope.report.render_words import printable
from piscope.verify.account import Account
from piscope.verify.verdict import AGREES, CANT_TELL, DISAGREES

__all__ = ("account_as_markdown",)

_STATUS_WORDS = {AGREES: "agrees", DISAGREES: "disagrees", CANT_TELL: "can't tell"}

_HEADINGS = (
    "capture",
    "probe readings",
    "transitions",
    "agree: preempt-only",
    "agree: suppress-on-put",
    "agree: no PI wakeup",
    "found",
    "PIN",
    "PIW",
    "verdict",
)


def account_as_markdown(accounts: Sequence[Account]) -> str:
    """One row a trace: what agrees with the two main policies, and what was found."""
    lines = [
        f"| {' | '.join(_HEADINGS)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- | --- | --- |",
    ]
    last = [PurePath(a.trace).name for a in accounts]
    parts = 1 if len(set(last)) == len(last) else 2
    for a in accounts:
        cells = [
            f"`{_short_name(a.trace, parts)}`",
            f"{a.readings:,}",
            f"{a.transitions:,}",
            _agree_with(a, "preempt-only", "needs-pi-wakeup"),
            _agree_with(a, "suppress-on-put", "needs-pi-wakeup"),
            _agree_with(a, "suppress-on-put", "no-pi-wakeup"),
            _found(a),
            _counted(a, "PIN"),
            _counted(a, "PIW"),
            _STATUS_WORDS[a.status],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short_name(trace: str, parts: int) -> str:
    last = PurePath(trace).parts[-parts:]
    return "/".join(printable(part) for part in last).replace("`", "'")


def _agree_with(account: Account, policy: str, platform: str) -> str:
    for c in account.candidates:
        if (c.policy, c.platform) == (policy, platform):
            return f"{account.transitions - c.disagreements:,}"
    return "-"


def _found(account: Account) -> str:
    if account.policy is None or account.status == CANT_TELL:
        return "-"
    if account.platform == "no-pi-wakeup":
        return "no PI wakeup"
    return account.policy if account.platform == "needs-pi-wakeup" else "no APICv"


def _counted(account: Account, counter: str) -> str:
    lines = [c for c in account.counters if c.counter == counter]
    if not lines:
        return "-"
    counted = sum(c.counted for c in lines)
    least = sum(c.least for c in lines)
    mosts = [c.most for c in lines]
    if any(most is None for most in mosts):
        return f"{counted:,} (at least {least:,})"
    return f"{counted:,} ({least:,} to {sum(m for m in mosts if m is not None):,})"
