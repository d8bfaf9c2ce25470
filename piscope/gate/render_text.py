"""The gate's report for a terminal, 80 columns, and as Markdown for a job summary."""

from __future__ import annotations

import textwrap
from itertools import groupby

from piscope.gate.findings import Finding, Report, State, Verdict
from piscope.gate.words import clip, now_text, title, verdict_line, was_text
from piscope.report.render_words import printable

__all__ = ("as_markdown", "as_text")

_COLUMNS = 80
_MOST_ROWS = 200  # of one kind; a job summary may have 1 MiB
_HEADINGS = ("limit", "allowed", "was", "is")


def as_text(report: Report) -> str:
    """Findings that are open, worst first, under the trace they are of."""
    lines = [f"piscope gate: {verdict_line(report)}", _traces(report)]
    lines += report.notes
    found = report.open()
    for verdict in (Verdict.NOT_ANALYZED, Verdict.BROKEN, Verdict.CANNOT_TELL):
        some = [f for f in found if f.verdict == verdict]
        if not some:
            continue
        lines += ["", f"{verdict.upper()} ({len(some):,})"]
        for _, same in groupby(some[:_MOST_ROWS], title):
            lines += _as_lines(list(same))
        if len(some) > _MOST_ROWS:
            lines.append(f"  ... and {len(some) - _MOST_ROWS:,} more: --format json")
    return "\n".join(printable(line) for line in lines) + "\n"


def _traces(report: Report) -> str:
    counts = dict.fromkeys(State, 0)
    for line in report.traces:
        counts[line.state] += 1
    cached = sum(line.cached for line in report.traces)
    parts = [f"{count:,} {state}" for state, count in counts.items() if count]
    known = len(report.traces) - counts[State.MISSING]
    noun = "trace" if known == 1 else "traces"
    states = ", ".join(parts) or "none"
    return f"{known:,} {noun}: {states}; {cached:,} from the cache"


def _as_lines(findings: list[Finding]) -> list[str]:
    """All of one trace, group or corpus, and how to look into them."""
    lines = [clip(f"  {printable(title(findings[0]))}", _COLUMNS)]
    for finding in findings:
        if finding.limit is not None:
            why = f" ({finding.why})" if finding.why else ""
            lines += _in_one_or_two(
                f"    {finding.limit.name}: {finding.limit.allowed()}",
                f"was {was_text(finding)}, is {now_text(finding)}{why}",
            )
        else:
            # Whole: it may be the only place that tells what is wrong with a file.
            lines += textwrap.wrap(
                finding.why,
                _COLUMNS,
                initial_indent="    ",
                subsequent_indent="      ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    commands = dict.fromkeys(f.command for f in findings if f.command)
    return lines + [f"    $ {command}" for command in commands]  # to be pasted: whole


def _in_one_or_two(left: str, right: str) -> list[str]:
    if len(left) + 2 + len(right) <= _COLUMNS:
        return [f"{left}; {right}"]
    return [clip(left, _COLUMNS), clip(f"      {right}", _COLUMNS)]


def as_markdown(report: Report) -> str:
    """A heading, a table of the open findings, and how to look into each."""
    lines = [f"### piscope gate: {_cell(verdict_line(report))}", "", _traces(report)]
    lines += (
        ["", *(f"- {_cell(note)}" for note in report.notes)] if report.notes else []
    )
    found = report.open()
    if found:
        lines += [
            "",
            f"| | trace | {' | '.join(_HEADINGS)} |",
            "| --- | --- | --- | --- | ---: | ---: |",
            *(_row(finding) for finding in found[:_MOST_ROWS]),
        ]
    commands = list(dict.fromkeys(f.command for f in found[:_MOST_ROWS] if f.command))
    if commands:
        lines += ["", "To see why:", ""]
        lines += [f"    {printable(command)}" for command in commands]
    if len(found) > _MOST_ROWS:
        lines += ["", f"... and {len(found) - _MOST_ROWS:,} more."]
    return "\n".join(lines) + "\n"


def _row(finding: Finding) -> str:
    if finding.limit is None:
        cells = [f"**{finding.verdict}**", title(finding), finding.why, "", "", ""]
    else:
        allowed = finding.limit.allowed()
        cells = [
            f"**{finding.verdict}**",
            title(finding),
            finding.limit.name,
            f"{allowed} ({finding.why})" if finding.why else allowed,
            was_text(finding),
            now_text(finding),
        ]
    return f"| {' | '.join([cells[0], *map(_cell, cells[1:])])} |"


def _cell(text: str) -> str:
    # Names of files and of events are others' words: no markup, no cell of their own.
    text = printable(text)
    for c in "\\`*_[]<>|#":
        text = text.replace(c, f"\\{c}")
    return text
