"""The gate's report for machines: JSON, JUnit XML, SARIF, GitHub annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from piscope.gate.findings import Finding, Report, Verdict
from piscope.gate.metrics import METRICS, Range
from piscope.gate.render_text import as_markdown, as_text
from piscope.gate.words import now_text, sentence, title, verdict_line, was_text
from piscope.report.render_words import printable

__all__ = ("FORMS", "as_github", "as_json", "as_junit", "as_sarif")

SCHEMA_VERSION = 1
"""Of the JSON."""

_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {
    Verdict.NOT_ANALYZED: "error",
    Verdict.BROKEN: "error",
    Verdict.CANNOT_TELL: "warning",
}


def as_json(report: Report) -> str:
    """Everything, kept limits included; an end of a range that is open is null."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "piscope_version": report.piscope,
        "baseline": report.baseline,
        "verdict": report.verdict,
        "exit_status": report.exit_status,
        "notes": list(report.notes),
        "traces": [
            {
                "name": line.name,
                "path": line.path,
                "state": line.state,
                "cached": line.cached,
                "why": line.why or None,
            }
            for line in report.traces
        ],
        "findings": [_plain(finding) for finding in report.findings],
    }
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _plain(finding: Finding) -> dict[str, Any]:
    limit = finding.limit
    return {
        "verdict": finding.verdict,
        "scope": finding.scope,
        "name": finding.name,
        "path": finding.path,
        "limit": None
        if limit is None
        else {
            "on": limit.name,
            "key": limit.key,
            "line": limit.line,
            "max": limit.max,
            "min": limit.min,
            "increase_percent": limit.increase_percent,
            "noise_below": limit.noise_below,
        },
        "was": _ends(finding.was),
        "is": _ends(finding.now),
        "why": finding.why or None,
        "command": finding.command or None,
    }


def _ends(number: Range | None) -> dict[str, float | None] | None:
    if number is None:
        return None
    most = None if math.isinf(number.max) else number.max
    return {"min": number.min, "max": most}


def as_junit(report: Report) -> str:
    """A test case for each limit, in a suite for each trace, group, and the corpus.

    A limit that can't be told, and a trace that can't be read, are errors; JUnit's
    "skipped" would count as a pass.
    """
    suites: dict[str, list[Finding]] = {}
    for finding in report.findings:
        suites.setdefault(title(finding), []).append(finding)
    bad = len(report.open()) - report.count(Verdict.BROKEN)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="piscope gate" tests="{len(report.findings)}"'
        f' failures="{report.count(Verdict.BROKEN)}" errors="{bad}">',
    ]
    for name in sorted(suites):
        lines += _suite(name, suites[name])
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def _suite(name: str, findings: list[Finding]) -> list[str]:
    broken = sum(f.verdict == Verdict.BROKEN for f in findings)
    errors = sum(
        f.verdict in (Verdict.CANNOT_TELL, Verdict.NOT_ANALYZED) for f in findings
    )
    lines = [
        f'  <testsuite name={_attribute(name)} tests="{len(findings)}"'
        f' failures="{broken}" errors="{errors}">'
    ]
    for finding in findings:
        names = f"classname={_attribute(name)} name={_attribute(finding.rule)}"
        case = f"    <testcase {names}"
        if finding.verdict == Verdict.KEPT:
            lines.append(f"{case}/>")
            continue
        tag = "failure" if finding.verdict == Verdict.BROKEN else "error"
        body = escape(printable(_with_command(finding)))
        lines += [
            f"{case}>",
            f'      <{tag} type="{finding.verdict}"'
            f" message={_attribute(sentence(finding))}>{body}</{tag}>",
            "    </testcase>",
        ]
    return [*lines, "  </testsuite>"]


def _attribute(text: str) -> str:
    return quoteattr(printable(text))


def _with_command(finding: Finding) -> str:
    if not finding.command:
        return sentence(finding)
    return f"{sentence(finding)}; to see why: {finding.command}"


def as_sarif(report: Report) -> str:
    """SARIF 2.1.0: a rule for each metric, a result for each open finding.

    Results point at the line of the baseline that holds the limit, since a trace has
    none, and name the trace in the message.
    Source: OASIS SARIF 2.1.0, 3.27 (result), 3.49 (reportingDescriptor).
    """
    found = report.open()
    rules = dict.fromkeys(_rule(finding) for finding in found)
    value = {
        "$schema": _SARIF,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "piscope gate",
                        "version": report.piscope,
                        "rules": [
                            {
                                "id": rule,
                                "shortDescription": {"text": _meaning(rule)},
                            }
                            for rule in rules
                        ],
                    }
                },
                "results": [_result(report, finding) for finding in found],
            }
        ],
    }
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _rule(finding: Finding) -> str:
    if finding.limit is not None:
        return finding.limit.value.metric
    return finding.verdict.value.replace(" ", "-")


def _meaning(rule: str) -> str:
    metric = METRICS.get(rule)
    return (
        metric.meaning if metric is not None else f"what was {rule.replace('-', ' ')}"
    )


def _result(report: Report, finding: Finding) -> dict[str, Any]:
    line = finding.limit.line if finding.limit is not None else None
    region = {"region": {"startLine": line}} if line is not None else {}
    return {
        "ruleId": _rule(finding),
        "level": _LEVELS[finding.verdict],
        "message": {"text": printable(_with_command(finding))},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {
                        "uri": quote(report.baseline, errors="backslashreplace")
                    },
                    **region,
                }
            }
        ],
        "properties": {
            "trace": finding.path or finding.name,
            "was": was_text(finding),
            "is": now_text(finding),
        },
    }


def as_github(report: Report) -> str:
    """Workflow commands: an annotation at the limit's line of the baseline.

    Source: GitHub Docs, "Workflow commands for GitHub Actions", error and warning;
    escaping as in actions/toolkit, packages/core/src/command.ts.
    """
    lines = []
    for finding in report.open():
        place = f"file={_property(report.baseline)}"
        if finding.limit is not None and finding.limit.line is not None:
            place += f",line={finding.limit.line}"
        lines.append(
            f"::{_LEVELS[finding.verdict]} {place},"
            f"title={_property(f'piscope gate: {finding.verdict}')}"
            f"::{_data(_with_command(finding))}"
        )
    kind = "notice" if report.exit_status == 0 else "error"
    lines.append(f"::{kind} title=piscope gate::{_data(verdict_line(report))}")
    return "\n".join(lines) + "\n"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


FORMS: dict[str, Callable[[Report], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "junit": as_junit,
    "sarif": as_sarif,
    "github": as_github,
    "json": as_json,
}
"""What `--format` and `--output` take."""
