"""One trace as the gate knows it: what it was, and its numbers.

The same whether it comes out of the analysis, the cache, or another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from piscope.gate.metrics import METRICS, OTHERS, ZERO, Range, Value, hull
from piscope.model.policy import POLICIES

__all__ = ("CAPTURED", "Failed", "Measured", "Options", "as_plain", "from_plain")

CAPTURED = "captured"
"""Where a policy is named: that of the captured kernel, whichever it is."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of every trace of a corpus.

    policies  to replay; that of the captured kernel is replayed as well
    posted    as `piscope analyze --posted`
    ignore    patterns of events to treat as absent
    verify    whether to hold the model against probes as well
    """

    policies: tuple[str, ...]
    posted: str = "msi"
    ignore: tuple[str, ...] = ()
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A trace that could not be analyzed, and why, in one line.

    retry  whether another attempt could end otherwise: it is not remembered
    """

    why: str
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One trace's numbers.

    sha256           of its bytes
    size_bytes       how many they are
    kernel_release   null: not told
    captured_policy  null: not known
    duration_ns      from its first event to its last
    entries          VM-entries
    policies         that were replayed; every known one where the captured is not
    values           without those that are 0
    cached           whether it comes from an earlier run
    """

    sha256: str
    size_bytes: int
    kernel_release: str | None
    captured_policy: str | None
    duration_ns: int
    entries: int
    policies: tuple[str, ...]
    values: Mapping[Value, Range]
    cached: bool = False

    def number(self, value: Value) -> Range | None:
        """The number, or None where its policy was not replayed.

        Under `captured`, a kernel that nothing identifies may be any: the range then
        holds that of every policy; None where one of them was not replayed.
        """
        if value.policy != CAPTURED:
            return self._of(value)
        if self.captured_policy is not None:
            return self._of(value._replace(policy=self.captured_policy))
        each = [self._of(value._replace(policy=name)) for name in POLICIES]
        known = [number for number in each if number is not None]
        return hull(known) if len(known) == len(each) else None

    def _of(self, value: Value) -> Range | None:
        if value.policy and value.policy not in self.policies:
            return None
        number = self.values.get(value)
        if number is None and METRICS[value.metric].keys:
            number = self.values.get(value._replace(key=OTHERS))
        return ZERO if number is None else number


def as_plain(measured: Measured) -> dict[str, Any]:
    """Plain values for JSON, the numbers as rows in the order of their names."""
    return {
        "sha256": measured.sha256,
        "size_bytes": measured.size_bytes,
        "kernel_release": measured.kernel_release,
        "captured_policy": measured.captured_policy,
        "duration_ns": measured.duration_ns,
        "entries": measured.entries,
        "policies": list(measured.policies),
        "values": [
            [*value, *(None if n == float("inf") else n for n in number)]
            for value, number in sorted(measured.values.items())
        ],
    }


def from_plain(plain: Any) -> Measured:
    """What `as_plain` made, as one of an earlier run.

    Raises ValueError where it is anything else.
    """
    try:
        return Measured(
            sha256=_typed(plain["sha256"], str),
            size_bytes=_typed(plain["size_bytes"], int),
            kernel_release=_or_none(plain["kernel_release"]),
            captured_policy=_or_none(plain["captured_policy"]),
            duration_ns=_typed(plain["duration_ns"], int),
            entries=_typed(plain["entries"], int),
            policies=tuple(_typed(name, str) for name in plain["policies"]),
            values=dict(_row(*row) for row in plain["values"]),
            cached=True,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no numbers of a trace: {error}") from None


def _typed(value: Any, kind: Callable[..., Any]) -> Any:
    if not isinstance(value, kind):  # type: ignore[arg-type]
        raise TypeError(f"{value!r:.40} where {kind.__name__} was expected")
    return value


def _or_none(value: Any) -> str | None:
    return None if value is None else str(_typed(value, str))


def _row(
    metric: str, key: str, policy: str, least: int, most: int | None
) -> tuple[Value, Range]:
    if metric not in METRICS:
        raise TypeError(f"unknown metric {metric!r:.40}")
    top = float("inf") if most is None else _typed(most, int)
    return Value(metric, _typed(key, str), _typed(policy, str)), Range(
        _typed(least, int), top
    )
