"""A corpus held to a baseline: each trace, each group, and all of it."""

from __future__ import annotations

import fnmatch
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from piscope import __version__
from piscope.corpus import Corpus
from piscope.gate.baseline import Baseline, Group, Was
from piscope.gate.compare import WORST_FIRST, Number, total, verdict_of
from piscope.gate.earlier import is_report
from piscope.gate.findings import Finding, Report, State, TraceLine, Verdict
from piscope.gate.limits import Limit
from piscope.gate.measured import CAPTURED, Failed, Measured
from piscope.gate.metrics import METRICS, OTHERS, VERIFY, ZERO, Value
from piscope.outcomes import Hit

__all__ = ("judge",)

_MOST_NOTES = 20


def judge(
    baseline: Baseline,
    corpus: Corpus,
    results: Mapping[str, Measured | Failed],
    *,
    partial: bool = False,
) -> Report:
    """Hold every result to the baseline.

    A trace without a result counts as not analyzed. With `partial`, traces that only
    the baseline knows are left out of it.
    """
    paths = {trace.name: trace.path for trace in corpus.traces}
    measured = {n: r for n, r in results.items() if isinstance(r, Measured)}
    was = {n: w for n, w in baseline.measured.items() if n in paths or not partial}
    lines = _lines(paths, results, was)
    findings = [*_about_baseline(baseline), *_unreadable(lines), *_missing(lines)]
    judging = _Judging(baseline, paths, measured, was)
    for name in sorted(measured):
        findings += judging.trace(name)
    for group in baseline.groups:
        findings += judging.sum("group", group.name, group.sum, judging.members(group))
    findings += judging.sum("corpus", "corpus", baseline.corpus, sorted({*paths, *was}))
    findings.sort(key=lambda f: WORST_FIRST.index(f.verdict))
    notes = _notes(baseline, corpus, measured, was)
    return Report(baseline.path, __version__, lines, findings, notes)


def _notes(
    baseline: Baseline,
    corpus: Corpus,
    measured: Mapping[str, Measured],
    was: Mapping[str, Was],
) -> list[str]:
    notes = [
        f"{count:,} {what}"
        for count, what in (
            (corpus.skipped, "other files, whose name is none of a trace"),
            (corpus.excluded, "excluded by the baseline"),
            (len(baseline.measured) - len(was), "more in the baseline, not asked for"),
        )
        if count
    ]
    others = [
        f"{name}: a kernel of {measured[name].captured_policy or 'unknown policy'},"
        f" the baseline's was of {was[name].captured_policy or 'unknown policy'}"
        for name in sorted(measured)
        if name in was and was[name].captured_policy != measured[name].captured_policy
    ]
    notes += others[:_MOST_NOTES]
    if len(others) > _MOST_NOTES:
        notes.append(f"... and {len(others) - _MOST_NOTES:,} kernels more")
    if not baseline.limits():
        notes.append("the baseline has no limits: nothing was judged")
    return notes


def _lines(
    paths: Mapping[str, str],
    results: Mapping[str, Measured | Failed],
    was: Mapping[str, Was],
) -> list[TraceLine]:
    lines = []
    for name in sorted({*paths, *was}):
        path, result = paths.get(name), results.get(name)
        if path is None:
            lines.append(TraceLine(name, None, State.MISSING))
        elif not isinstance(result, Measured):
            why = result.why if result is not None else f"{path}: not reached"
            lines.append(TraceLine(name, path, State.UNREADABLE, why=why))
        else:
            state = State.NEW
            if name in was:
                same = was[name].sha256 == result.sha256
                state = State.UNCHANGED if same else State.CHANGED
            lines.append(TraceLine(name, path, state, cached=result.cached))
    return lines


def _about_baseline(baseline: Baseline) -> list[Finding]:
    if baseline.piscope in (None, __version__):
        return []
    why = (
        f"measured by piscope {baseline.piscope}, this is {__version__}: run --update"
        " with this version and review what changes"
    )
    return [Finding(Verdict.NOT_ANALYZED, "baseline", baseline.path, why=why)]


def _unreadable(lines: Sequence[TraceLine]) -> list[Finding]:
    return [
        Finding(
            Verdict.NOT_ANALYZED,
            "trace",
            line.name,
            line.path,
            why=line.why,
            command=f"piscope check {shlex.quote(line.path or '')}",
        )
        for line in lines
        if line.state is State.UNREADABLE
    ]


def _missing(lines: Sequence[TraceLine]) -> list[Finding]:
    return [
        Finding(
            Verdict.CANNOT_TELL,
            "trace",
            line.name,
            why="in the baseline, not in the corpus (--partial allows that)",
        )
        for line in lines
        if line.state is State.MISSING
    ]


@dataclass(frozen=True, slots=True)
class _Judging:
    baseline: Baseline
    paths: Mapping[str, str]
    measured: Mapping[str, Measured]
    was: Mapping[str, Was]

    def members(self, group: Group) -> list[str]:
        return [n for n in sorted({*self.paths, *self.was}) if _is_member(n, group)]

    def trace(self, name: str) -> Iterable[Finding]:
        groups = [g for g in self.baseline.groups if _is_member(name, g)]
        for limit in self.baseline.of_trace(name, groups):
            now, was = self._now(name, limit), self._then(name, limit)
            verdict, why = _with_was(limit, now, was, name in self.was)
            yield self._finding(verdict, "trace", name, limit, name, was, now, why)

    def sum(
        self, scope: str, title: str, limits: Sequence[Limit], names: Sequence[str]
    ) -> Iterable[Finding]:
        """Limits on all these traces together.

        The baseline's sum is of the same traces; where some of them have no number,
        now or then, the limit may be broken but is not kept.
        """
        for limit in limits:
            nows = {n: self._now(n, limit) for n in names}
            thens = {n: self._then(n, limit) for n in names}
            relative = limit.increase_percent is not None
            there = [
                n
                for n in names
                if nows[n] is not None and not (relative and thens[n] is None)
            ]
            now = total(limit, [nows[n] for n in there])
            was = total(limit, [thens[n] for n in there])
            verdict, why = _with_was(limit, now, was, bool(there))
            if len(there) < len(names):
                why = f"{len(names) - len(there)} of {len(names)} traces have no number"
                if verdict is Verdict.KEPT and not limit.cannot_tell_passes:
                    verdict = Verdict.CANNOT_TELL
            most = max(there, key=lambda n: _rise(nows[n], thens[n]), default=None)
            yield self._finding(verdict, scope, title, limit, most, was, now, why)

    def _now(self, name: str, limit: Limit) -> Number | None:
        m = self.measured.get(name)
        number = m.number(limit.value) if m is not None else None
        if m is None or number is None:
            return None
        return Number(number, m.duration_ns, m.entries)

    def _then(self, name: str, limit: Limit) -> Number | None:
        w = self.was.get(name)
        number = w.values.get(limit.value_name) if w is not None else None
        if w is None or number is None:
            return None
        return Number(number, w.duration_ns, w.entries)

    def _finding(
        self,
        verdict: Verdict,
        scope: str,
        title: str,
        limit: Limit,
        name: str | None,
        was: Number | None,
        now: Number | None,
        why: str,
    ) -> Finding:
        path = self.paths.get(name) if name is not None else None
        return Finding(
            verdict,
            scope,
            title,
            path,
            limit,
            was.by(limit.measure) if was is not None else None,
            now.by(limit.measure) if now is not None else None,
            why,
            self._command(limit, name, path),
        )

    def _command(self, limit: Limit, name: str | None, path: str | None) -> str:
        if path is None or name is None or is_report(path):
            return ""
        if not METRICS[limit.value.metric].policied:
            return shlex.join(["piscope", "check", path])
        options = self.baseline.options
        policy: str | None = limit.value.policy
        if policy == CAPTURED:
            policy = self.measured[name].captured_policy
        if limit.value.metric == VERIFY:
            named = ["--policy", policy] if policy is not None else []
            return shlex.join(["piscope", "verify", *named, path])
        hit = _example(limit.value.metric, policy, self.measured[name])
        words = ["piscope", "explain", "--hit", hit] if hit else ["piscope", "analyze"]
        words += ["--policy", policy] if policy is not None else []
        words += ["--posted", options.posted]
        for pattern in options.ignore:
            words += ["--ignore", pattern]
        return shlex.join([*words, path])


_EXAMPLES = {
    "unloaded_notifications": "unloaded",
    "unloaded_by_reason": "unloaded",
    "spurious_host_irqs": Hit.UNLOADED_HOST.label,
    "wrong_vcpu": Hit.WRONG_VCPU.label,
    "residual_notifications": "residual",
    "residual_by_state": "residual",
    "residual_by_exit_reason": "residual",
}
"""What `piscope explain --hit` calls a notification that such a number counts."""


def _example(metric: str, policy: str | None, measured: Measured) -> str:
    """The word for a notification that can be told; "": none is sure to be known."""
    hit = _EXAMPLES.get(metric, "")
    if policy is None or not hit:
        return ""
    number = "residual_notifications" if hit == "residual" else metric
    number = "unloaded_notifications" if hit == "unloaded" else number
    if measured.values.get(Value(number, "", policy), ZERO).min <= 0:
        return ""
    if hit == "residual":
        # those that a probe saw at a put are no posts, and so no findings
        states = {
            value.key
            for value in measured.values
            if value.metric == "residual_by_state" and value.policy == policy
        }
        hit = hit if states - {OTHERS, "before-put"} else ""
    return hit


def _is_member(name: str, group: Group) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in group.traces)


def _with_was(
    limit: Limit, now: Number | None, was: Number | None, known: bool
) -> tuple[Verdict, str]:
    if limit.increase_percent is not None and was is None:
        why = "no such number in the baseline" if known else "not in the baseline"
    else:
        why = ""
    return verdict_of(limit, now, was), why


def _rise(now: Number | None, was: Number | None) -> float:
    if now is None:
        return -math.inf
    return now.count.min - (was.count.max if was is not None else 0)
