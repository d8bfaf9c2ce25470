"""Limits: what they are on, what they allow, and how TOML says them.

    METRIC[.KEY][.POLICY][.MEASURE] = { max = 0 }
    METRIC[.KEY][.POLICY][.MEASURE].increase_percent = 10

    unloaded_notifications.captured.per_entry.increase_percent = 10
    residual_by_exit_reason.12.suppress-on-put.max = 5
    losses.max = 0

An error names the key, and the line where the text tells it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from piscope.errors import UsageError
from piscope.gate.measured import CAPTURED
from piscope.gate.metrics import METRICS, Value
from piscope.model.policy import POLICIES

__all__ = ("MEASURES", "Limit", "Where", "dotted", "parse_limits", "quoted")

MEASURES = ("per_second", "per_entry")
"""What a number may be divided by: the trace's seconds, or its VM-entries."""

_SETTINGS = ("max", "min", "increase_percent", "noise_below", "cannot_tell")


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a baseline: its file, and the line of each key.

    lines  by the path of a key; a key that no line tells has that of its table
    """

    path: str
    lines: Mapping[tuple[str, ...], int]

    def line(self, keys: tuple[str, ...]) -> int | None:
        """Of the key, or of the nearest table around it."""
        for length in range(len(keys), 0, -1):
            if (line := self.lines.get(keys[:length])) is not None:
                return line
        return None

    def refuse(self, keys: tuple[str, ...], message: str) -> NoReturn:
        """Raise UsageError with key and line."""
        raise UsageError(
            f"{dotted(keys)}: {message}", path=self.path, line=self.line(keys)
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """What one number may be.

    value             of what
    measure           "", or one of MEASURES
    max, min          as a number of the metric's unit (or per second, per entry)
    increase_percent  over the baseline's number; may be negative
    noise_below       counts that are not greater are no increase, whatever they were
    cannot_tell_passes  whether a range that lies on both sides is let through
    key               as the baseline writes it, for people
    line              of it; null: not told
    """

    value: Value
    measure: str = ""
    max: float | None = None
    min: float | None = None
    increase_percent: float | None = None
    noise_below: float = 0
    cannot_tell_passes: bool = False
    key: str = ""
    line: int | None = None

    @property
    def what(self) -> tuple[Value, str]:
        """What it is on; of two limits on the same, the more special one counts."""
        return self.value, self.measure

    @property
    def name(self) -> str:
        """What it is on, as the baseline writes it."""
        return dotted([part for part in (*self.value, self.measure) if part])

    @property
    def value_name(self) -> str:
        """The same before any division: the name of a number of the baseline."""
        return dotted([part for part in self.value if part])

    def allowed(self) -> str:
        """What it allows, for people."""
        said = []
        if self.max is not None:
            said.append(f"max {_plain(self.max)}")
        if self.min is not None:
            said.append(f"min {_plain(self.min)}")
        if self.increase_percent is not None:
            noise = f" above {_plain(self.noise_below)}" if self.noise_below else ""
            sign = "+" if self.increase_percent >= 0 else ""
            said.append(f"{sign}{_plain(self.increase_percent)}%{noise}")
        return ", ".join(said)


def _plain(number: float) -> str:
    return f"{number:,.10g}" if abs(number) < 1e10 else f"{number:,.0f}"


def dotted(keys: Iterable[str]) -> str:
    """A key as TOML writes it: quoted where a part is not bare."""
    return ".".join(
        part
        if part and all(c.isascii() and (c.isalnum() or c in "-_") for c in part)
        else quoted(part)
        for part in keys
    )


def quoted(text: str) -> str:
    """A text as TOML writes it, in one line; lone surrogates escaped twice."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(c: str) -> str:
    if c in '"\\':
        return f"\\{c}"
    if 0xD800 <= ord(c) < 0xE000:
        return f"\\\\u{ord(c):04x}"
    return c if c.isprintable() else f"\\U{ord(c):08x}"


def parse_limits(table: Any, at: tuple[str, ...], where: Where) -> tuple[Limit, ...]:
    """The limits of one table, in the order of the file.

    Raises UsageError for a metric, key, policy or setting that does not exist, a
    setting of the wrong kind, and a limit that limits nothing.
    """
    if not isinstance(table, dict):
        where.refuse(at, "expected a table of limits")
    limits: list[Limit] = []
    for metric, below in table.items():
        keys = (*at, metric)
        known = METRICS.get(metric)
        if known is None:
            where.refuse(keys, f"no such metric{_similar(metric, METRICS)}")
        steps: list[tuple[str, Callable[[str], bool]]] = []
        if known.keys:
            steps.append((f"a {known.keys}", lambda _: True))
        if known.policied:
            steps.append(("a policy", _is_policy))
        _walk(Value(metric), below, keys, steps, where, limits)
    return tuple(limits)


def _is_policy(name: str) -> bool:
    return name == CAPTURED or name in POLICIES


def _walk(
    value: Value,
    table: Any,
    keys: tuple[str, ...],
    steps: list[tuple[str, Callable[[str], bool]]],
    where: Where,
    limits: list[Limit],
) -> None:
    if not isinstance(table, dict):
        where.refuse(keys, f"expected {steps[0][0] if steps else 'a setting'} below it")
    if not steps:
        _measures(value, table, keys, where, limits)
        return
    (what, is_one), *rest = steps
    for name, below in table.items():
        if not is_one(name):
            close = _similar(name, (*POLICIES, CAPTURED))
            where.refuse((*keys, name), f"expected {what}{close}")
        field = "policy" if what == "a policy" else "key"
        _walk(
            value._replace(**{field: name}), below, (*keys, name), rest, where, limits
        )


def _measures(
    value: Value,
    table: Mapping[str, Any],
    keys: tuple[str, ...],
    where: Where,
    limits: list[Limit],
) -> None:
    settings = {name: s for name, s in table.items() if name not in MEASURES}
    if settings or not table:
        limits.append(_limit(value, "", settings, keys, where))
    for measure in MEASURES:
        if measure not in table:
            continue
        at = (*keys, measure)
        if METRICS[value.metric].total == "max" or value.metric == "entries":
            where.refuse(at, f"{value.metric} has no rate")
        if not isinstance(table[measure], dict):
            where.refuse(at, "expected a setting below it")
        limits.append(_limit(value, measure, table[measure], at, where))


def _limit(
    value: Value,
    measure: str,
    settings: Mapping[str, Any],
    keys: tuple[str, ...],
    where: Where,
) -> Limit:
    numbers: dict[str, float] = {}
    for name, setting in settings.items():
        at = (*keys, name)
        if name not in _SETTINGS:
            where.refuse(
                at, f"no such setting{_similar(name, (*_SETTINGS, *MEASURES))}"
            )
        if name == "cannot_tell":
            if setting not in ("pass", "report"):
                where.refuse(at, 'expected "pass" or "report"')
            continue
        if isinstance(setting, bool) or not isinstance(setting, (int, float)):
            where.refuse(at, "expected a number")
        if not math.isfinite(setting):
            where.refuse(at, "expected a finite number")
        least = -100.0 if name == "increase_percent" else 0.0
        if setting < least:
            where.refuse(at, f"expected at least {least:g}")
        numbers[name] = setting
    if not {"max", "min", "increase_percent"} & set(numbers):
        where.refuse(keys, "limits nothing: expected max, min or increase_percent")
    if "noise_below" in numbers and "increase_percent" not in numbers:
        where.refuse((*keys, "noise_below"), "only beside increase_percent")
    return Limit(
        value,
        measure,
        **numbers,
        cannot_tell_passes=settings.get("cannot_tell") == "pass",
        key=dotted(keys),
        line=where.line(keys),
    )


def _similar(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""
