"""The baseline: limits that people write, and numbers that `--update` writes.

[options]               what is asked of each trace
[limits.each]           for each trace
[limits.corpus]         for the sum over all traces
[limits.groups.NAME]    traces = [globs]; .each and .sum
[limits.traces.NAME]    for one trace, in place of what the others say
# ---- measured ...     everything below is made anew by `piscope gate --update`
[measured]
[measured.traces.NAME]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from piscope.errors import UsageError
from piscope.gate.limits import Limit, Where, parse_limits
from piscope.gate.measured import CAPTURED, Options
from piscope.gate.metrics import VERIFY, Range
from piscope.model.policy import POLICIES
from piscope.posted import parse_posted
from piscope.toml_text import parse_toml

__all__ = ("Baseline", "Group", "Was", "parse_baseline", "read_baseline")

FORMAT = 1
"""Of the file; a key that is renamed or changes its meaning raises it."""

DEFAULT_POLICIES = ("preempt-only", "suppress-on-put")
_MOST_BYTES = 64 << 20
_HEADER = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_PART = r"""(?:[\w-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = re.compile(rf"^\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


@dataclass(frozen=True, slots=True)
class Group:
    """Some traces, by the globs that their names match."""

    name: str
    traces: tuple[str, ...]
    each: tuple[Limit, ...] = ()
    sum: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Was:
    """A trace as it was when the baseline was made.

    values  by the name of what limits are on, before any division
    """

    sha256: str
    captured_policy: str | None
    duration_ns: int
    entries: int
    values: Mapping[str, Range]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline file.

    text     its part above the numbers, as people wrote it
    exclude  globs of trace names that are no part of the corpus
    piscope  the version that measured; null: nothing was measured yet
    """

    path: str
    text: str = ""
    options: Options = field(default_factory=lambda: Options(DEFAULT_POLICIES))
    exclude: tuple[str, ...] = ()
    each: tuple[Limit, ...] = ()
    corpus: tuple[Limit, ...] = ()
    groups: tuple[Group, ...] = ()
    special: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    piscope: str | None = None
    measured: Mapping[str, Was] = field(default_factory=dict)

    def limits(self) -> list[Limit]:
        """All of them, wherever they apply."""
        found = [*self.each, *self.corpus]
        for group in self.groups:
            found += [*group.each, *group.sum]
        for limits in self.special.values():
            found += limits
        return found

    def of_trace(self, name: str, groups: list[Group]) -> list[Limit]:
        """Those of one trace; the more special one counts."""
        chosen = {limit.what: limit for limit in self.each}
        for group in groups:
            chosen |= {limit.what: limit for limit in group.each}
        chosen |= {limit.what: limit for limit in self.special.get(name, ())}
        return list(chosen.values())


def read_baseline(path: str | Path) -> Baseline:
    """Raises UsageError, with key and line, for whatever is wrong with the file."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", path=path) from None
    if len(data) > _MOST_BYTES:
        raise UsageError(f"longer than {_MOST_BYTES:,} bytes", path=path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError("no UTF-8, expected TOML", path=path, byte=error.start) from (
            None
        )
    return parse_baseline(text, str(path))


def parse_baseline(text: str, path: str) -> Baseline:
    """A baseline from its text; `path` is for messages.

    Raises UsageError, with key and line.
    """
    document = parse_toml(text, path)
    where = Where(path, _lines(text))
    _only(document, (), ("format", "options", "limits", "measured"), where)
    written = document.get("format")
    if written != FORMAT:
        where.refuse(("format",), f"{written!r:.20}, expected {FORMAT}")
    limits = _table(document, ("limits",), where)
    _only(limits, ("limits",), ("each", "corpus", "groups", "traces"), where)
    groups = _table(limits, ("limits", "groups"), where)
    special = _table(limits, ("limits", "traces"), where)
    options, exclude = _options(_table(document, ("options",), where), where)
    measured = _table(document, ("measured",), where)
    _only(measured, ("measured",), ("piscope", "traces"), where)
    was = _table(measured, ("measured", "traces"), where)
    baseline = Baseline(
        path=path,
        text=text,
        options=options,
        exclude=exclude,
        each=parse_limits(limits.get("each", {}), ("limits", "each"), where),
        corpus=parse_limits(limits.get("corpus", {}), ("limits", "corpus"), where),
        groups=tuple(_group(name, table, where) for name, table in groups.items()),
        special={
            name: parse_limits(table, ("limits", "traces", name), where)
            for name, table in special.items()
        },
        piscope=_text(measured, ("measured", "piscope"), where),
        measured={name: _was(table, name, where) for name, table in was.items()},
    )
    return _with_what_limits_need(baseline)


def _with_what_limits_need(baseline: Baseline) -> Baseline:
    """Replay whatever policy a limit names, and verify if a limit is on that."""
    limits = baseline.limits()
    named = [limit.value.policy for limit in limits]
    wanted = [name for name in named if name and name != CAPTURED]
    policies = tuple(dict.fromkeys((*baseline.options.policies, *sorted(wanted))))
    verify = any(limit.value.metric == VERIFY for limit in limits)
    options = replace(baseline.options, policies=policies, verify=verify)
    return replace(baseline, options=options)


def _options(table: Mapping[str, Any], where: Where) -> tuple[Options, tuple[str, ...]]:
    at = ("options",)
    _only(table, at, ("policies", "posted", "ignore", "exclude"), where)
    policies = _texts(table, (*at, "policies"), where) or DEFAULT_POLICIES
    for name in policies:
        if name not in POLICIES:
            where.refuse(
                (*at, "policies"), f"no policy {name!r}: {', '.join(POLICIES)}"
            )
    posted = table.get("posted", "msi")
    try:
        posted = ",".join(parse_posted(posted if isinstance(posted, str) else ""))
    except UsageError as error:
        where.refuse((*at, "posted"), f"expected words of --posted: {error}")
    ignore = _texts(table, (*at, "ignore"), where)
    return Options(policies, posted, ignore), _texts(table, (*at, "exclude"), where)


def _group(name: str, table: Any, where: Where) -> Group:
    at = ("limits", "groups", name)
    if not isinstance(table, dict):
        where.refuse(at, "expected a table")
    _only(table, at, ("traces", "each", "sum"), where)
    traces = _texts(table, (*at, "traces"), where)
    if not traces:
        where.refuse(at, "expected traces = [globs of names]")
    return Group(
        name,
        traces,
        parse_limits(table.get("each", {}), (*at, "each"), where),
        parse_limits(table.get("sum", {}), (*at, "sum"), where),
    )


def _was(table: Any, name: str, where: Where) -> Was:
    at = ("measured", "traces", name)
    if not isinstance(table, dict):
        where.refuse(at, "expected a table")
    facts = ("sha256", "kernel_release", "captured_policy", "duration_ns", "entries")
    _only(table, at, (*facts, "values"), where)
    for key in ("duration_ns", "entries"):
        number = table.get(key)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            where.refuse((*at, key), "expected a whole number")
    values = {}
    for key, number in _table(table, (*at, "values"), where).items():
        ends = number if isinstance(number, list) else [number, number]
        if (
            len(ends) != 2
            or any(isinstance(e, bool) or not isinstance(e, (int, float)) for e in ends)
            or not 0 <= ends[0] <= ends[1]
        ):
            where.refuse((*at, "values", key), "expected a number or [min, max]")
        values[key] = Range(*ends)
    return Was(
        sha256=_text(table, (*at, "sha256"), where) or "",
        captured_policy=_text(table, (*at, "captured_policy"), where),
        duration_ns=table["duration_ns"],
        entries=table["entries"],
        values=values,
    )


def _only(
    table: Mapping[str, Any],
    at: tuple[str, ...],
    known: tuple[str, ...],
    where: Where,
) -> None:
    for key in table:
        if key not in known:
            where.refuse((*at, key), f"no such key, expected {', '.join(known)}")


def _table(
    parent: Mapping[str, Any], at: tuple[str, ...], where: Where
) -> dict[str, Any]:
    table = parent.get(at[-1], {})
    if not isinstance(table, dict):
        where.refuse(at, "expected a table")
    return table


def _text(parent: Mapping[str, Any], at: tuple[str, ...], where: Where) -> str | None:
    text = parent.get(at[-1])
    if text is not None and not isinstance(text, str):
        where.refuse(at, "expected a text")
    return text


def _texts(
    parent: Mapping[str, Any], at: tuple[str, ...], where: Where
) -> tuple[str, ...]:
    texts = parent.get(at[-1], [])
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        where.refuse(at, "expected a list of texts")
    return tuple(texts)


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of each key, as far as a line tells: tomllib keeps none.

    The text is known to be TOML. A line within a text of several lines may look like
    a key; that costs a wrong number in a message.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            keys = table
        elif key := _KEY.match(line):
            keys = (*table, *_parts(key[1]))
        else:
            continue
        for length in range(1, len(keys) + 1):
            lines.setdefault(keys[:length], number)
    return lines


def _parts(key: str) -> tuple[str, ...]:
    try:
        nested: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return (key,)
    parts = []
    while isinstance(nested, dict):
        ((part, nested),) = nested.items()
        parts.append(part)
    return tuple(parts)
