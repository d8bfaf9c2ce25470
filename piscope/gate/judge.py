"""Numbers against limits: kept, broken, or not to be told.

A number is a range, and the limit is one too where it hangs on the baseline's number:

    max         |------now------|  L              kept: the worst case keeps it
                              L |---now---|       broken: the best case breaks it
                       |---now--L---|             cannot tell

    increase    kept only if neither end rose above the same end of the baseline by
                more than the percentage; broken if even the least of now is above
                what the greatest of then allows

so that an unchanged trace keeps every relative limit, however wide its ranges.
"""

from __future__ import annotations

import fnmatch
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from piscope import __version__
from piscope.corpus import Corpus
from piscope.gate.baseline import Baseline, Group, Was
from piscope.gate.earlier import is_report
from piscope.gate.findings import Finding, Report, State, TraceLine, Verdict
from piscope.gate.limits import Limit
from piscope.gate.measured import CAPTURED, Failed, Measured
from piscope.gate.metrics import METRICS, VERIFY, ZERO, Range

__all__ = ("judge", "verdict_of")

_MOST_NOTES = 20
_S = 1e9  # ns
_ORDER = (Verdict.NOT_ANALYZED, Verdict.BROKEN, Verdict.CANNOT_TELL, Verdict.KEPT)


@dataclass(frozen=True, slots=True)
class _Number:
    """A number and what it may be divided by; of one trace, or of several."""

    count: Range
    duration_ns: int
    entries: int

    def by(self, measure: str) -> Range | None:
        if not measure:
            return self.count
        divisor = self.duration_ns / _S if measure == "per_second" else self.entries
        if not divisor:
            return None
        return Range(self.count.min / divisor, self.count.max / divisor)


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
    findings.sort(key=lambda f: _ORDER.index(f.verdict))
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
            now = _total(limit, [nows[n] for n in there])
            was = _total(limit, [thens[n] for n in there])
            verdict, why = _with_was(limit, now, was, bool(there))
            if len(there) < len(names):
                why = f"{len(names) - len(there)} of {len(names)} traces have no number"
                if verdict is Verdict.KEPT and not limit.cannot_tell_passes:
                    verdict = Verdict.CANNOT_TELL
            most = max(there, key=lambda n: _rise(nows[n], thens[n]), default=None)
            yield self._finding(verdict, scope, title, limit, most, was, now, why)

    def _now(self, name: str, limit: Limit) -> _Number | None:
        m = self.measured.get(name)
        number = m.number(limit.value) if m is not None else None
        if m is None or number is None:
            return None
        return _Number(number, m.duration_ns, m.entries)

    def _then(self, name: str, limit: Limit) -> _Number | None:
        w = self.was.get(name)
        number = w.values.get(limit.value_name) if w is not None else None
        if w is None or number is None:
            return None
        return _Number(number, w.duration_ns, w.entries)

    def _finding(
        self,
        verdict: Verdict,
        scope: str,
        title: str,
        limit: Limit,
        name: str | None,
        was: _Number | None,
        now: _Number | None,
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
        words = ["piscope", "analyze"]
        words += ["--policy", policy] if policy is not None else []
        words += ["--posted", options.posted]
        for pattern in options.ignore:
            words += ["--ignore", pattern]
        return shlex.join([*words, path])


def _is_member(name: str, group: Group) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in group.traces)


def _with_was(
    limit: Limit, now: _Number | None, was: _Number | None, known: bool
) -> tuple[Verdict, str]:
    if limit.increase_percent is not None and was is None:
        why = "no such number in the baseline" if known else "not in the baseline"
    else:
        why = ""
    return verdict_of(limit, now, was), why


def verdict_of(limit: Limit, now: _Number | None, was: _Number | None) -> Verdict:
    """One number against one limit; all that the limit says must be kept."""
    each = []
    value = now.by(limit.measure) if now is not None else None
    if now is None or value is None:
        each.append(Verdict.CANNOT_TELL)
    else:
        if limit.max is not None:
            each.append(_below(value, limit.max))
        if limit.min is not None:
            each.append(_below(Range(-value.max, -value.min), -limit.min))
        if limit.increase_percent is not None:
            each.append(_increase(limit, now, was))
    worst = min(each, key=_ORDER.index)
    if worst is Verdict.CANNOT_TELL and limit.cannot_tell_passes:
        return Verdict.KEPT
    return worst


def _below(value: Range, most: float) -> Verdict:
    if value.max <= most:
        return Verdict.KEPT
    return Verdict.BROKEN if value.min > most else Verdict.CANNOT_TELL


def _increase(limit: Limit, now: _Number, was: _Number | None) -> Verdict:
    value = now.by(limit.measure)
    before = was.by(limit.measure) if was is not None else None
    if value is None or before is None or limit.increase_percent is None:
        return Verdict.CANNOT_TELL
    factor = 1 + limit.increase_percent / 100
    allowed = Range(*(end * factor if factor else 0.0 for end in before))
    noise = limit.noise_below
    least = now.count.min <= noise or _within(value.min, allowed.min)
    most = now.count.max <= noise or _within(value.max, allowed.max)
    if least and most:
        return Verdict.KEPT
    if now.count.min > noise and not _within(value.min, allowed.max):
        return Verdict.BROKEN
    return Verdict.CANNOT_TELL


def _within(value: float, most: float) -> bool:
    # Both come from the same divisions; the last bit is no regression.
    return value <= most or math.isclose(value, most, rel_tol=1e-12)


def _total(limit: Limit, numbers: Sequence[_Number | None]) -> _Number | None:
    there = [number for number in numbers if number is not None]
    if not there or len(there) < len(numbers):
        return None
    count = ZERO
    for number in there:
        if METRICS[limit.value.metric].total == "max":
            count = Range(
                max(count.min, number.count.min), max(count.max, number.count.max)
            )
        else:
            count = count.plus(number.count)
    return _Number(
        count, sum(n.duration_ns for n in there), sum(n.entries for n in there)
    )


def _rise(now: _Number | None, was: _Number | None) -> float:
    if now is None:
        return -math.inf
    return now.count.min - (was.count.max if was is not None else 0)
