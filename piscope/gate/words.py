"""Numbers and lines of the gate's reports, the same in every form."""

from __future__ import annotations

import math
import unicodedata

from piscope.gate.findings import Finding, Report, Verdict
from piscope.gate.metrics import METRICS, Range
from piscope.report.render_words import duration_text

__all__ = ("clip", "now_text", "sentence", "title", "verdict_line", "was_text")


_PER = {"": "", "per_second": "/s", "per_entry": "/entry"}


def title(finding: Finding) -> str:
    """Whose number it is: a trace's name, or `group us`, or `corpus`."""
    if finding.scope == "group":
        return f"group {finding.name}"
    return finding.name


def was_text(finding: Finding) -> str:
    """The baseline's number; "-" where it has none."""
    return _number(finding, finding.was)


def now_text(finding: Finding) -> str:
    """The number of this run; "-" where it has none."""
    return _number(finding, finding.now)


def _number(finding: Finding, number: Range | None) -> str:
    if number is None or finding.limit is None:
        return "-"
    limit = finding.limit
    is_time = METRICS[limit.value.metric].unit == "ns"
    ends = [_end(end, is_time) for end in number]
    text = ends[0] if number.min == number.max else f"{ends[0]} to {ends[1]}"
    return text + _PER[limit.measure]


def _end(number: float, is_time: bool) -> str:
    if math.isinf(number):
        return "any"
    if is_time:
        return duration_text(int(number))
    return f"{int(number):,}" if number == int(number) else f"{number:.4g}"


def sentence(finding: Finding) -> str:
    """The finding in one line, without the command."""
    if finding.limit is None:
        return f"{title(finding)}: {finding.verdict}: {finding.why}"
    text = (
        f"{title(finding)}: {finding.verdict}: {finding.limit.name}"
        f" {finding.limit.allowed()}; was {was_text(finding)},"
        f" is {now_text(finding)}"
    )
    return f"{text} ({finding.why})" if finding.why else text


def verdict_line(report: Report) -> str:
    """The whole run in one line."""
    kept = report.count(Verdict.KEPT)
    parts = [f"{kept:,} kept"]
    parts += [
        f"{count:,} {verdict}"
        for verdict in (Verdict.BROKEN, Verdict.CANNOT_TELL, Verdict.NOT_ANALYZED)
        if (count := report.count(verdict))
    ]
    word = {0: "pass", 1: "REGRESSION", 2: "NOT ANALYZED", 3: "CANNOT TELL"}
    return f"{word[report.exit_status]}: {', '.join(parts)}"


def clip(text: str, columns: int) -> str:
    """The text in as many columns, its middle left out; wide characters count two."""
    if _columns(text) <= columns:
        return text
    tail = ""
    for c in reversed(text):
        if _columns(c + tail) > columns // 2 - 1:
            break
        tail = c + tail
    head = ""
    for c in text:
        if _columns(head + c + tail) > columns - 2:
            break
        head += c
    return f"{head}..{tail}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
