"""Which events are the probes, and which of their arguments is what.

Users set their probes themselves, so neither names nor arguments are given. Some are
recognized (those that tracefs, perf probe and fprobe make by default, and the
project's own), the others are named by options. A source is then read as if every
probe had the names that piscope knows.

    as recorded                     as read
    p_vmx_vcpu_pi_load_0            pi_load            on entry to vmx_vcpu_pi_load
    vmx_vcpu_pi_load__return        pi_load_return     on its return
    pi_put_done_0x152               pi_put_done_0x152  likewise, of vmx_vcpu_pi_put

Source: Documentation/trace/kprobetrace.rst and fprobetrace.rst; perf-probe(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np

from piscope.errors import UsageError
from piscope.sources.raw import Array, EventFormat, Payload, RawChunk, Source, Wanted

__all__ = ("ARGUMENTS", "Point", "ProbeNames", "RenamedSource", "point_of_event")


class Point(IntEnum):
    """Where a probe sits, in the order of a vCPU's life; SYNC may come many times.

    LOAD, LOAD_DONE  entry and return of vmx_vcpu_pi_load
    SYNC             entry of vmx_sync_pir_to_irr
    PUT, PUT_DONE    entry and return of vmx_vcpu_pi_put
    """

    LOAD = 0
    LOAD_DONE = 1
    SYNC = 2
    PUT = 3
    PUT_DONE = 4

    @property
    def label(self) -> str:
        """The point for people: `pi_load returns`."""
        return _LABELS[self]


_LABELS = {
    Point.LOAD: "pi_load entered",
    Point.LOAD_DONE: "pi_load returns",
    Point.SYNC: "sync_pir entered",
    Point.PUT: "pi_put entered",
    Point.PUT_DONE: "pi_put returns",
}

_RECOGNIZED = re.compile(
    r"(?P<r>r_)?(?:.*_)?pi_(?P<what>load|put)"
    r"(?:_0|_{1,2}entry|(?P<done>_{1,2}(?:done|ret|return|exit)(?:_.*)?))?",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    r"(?!r_)(?:.*_)?pi_(?:load|put)(?:_(?:done|ret|return|exit).*)?|(?:.*_)?sync_pir.*"
)
_SYNC = re.compile(r"(?:.*_)?sync_pir(?:_to_irr)?(?:_0|_{1,2}entry)?", re.IGNORECASE)

PATTERNS = ("*pi_load*", "*pi_put*", "*sync_pir*")
"""fnmatch patterns that every recognized name matches."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "ctl": ("ctl", "control", "pi_ctl", "pid_ctl", "pi_control"),
    "ndst": ("ndst", "pi_ndst"),
    "pir": ("pir", "pi_pir"),
    "pir0": ("pir0", "pir_0"),
    "pir1": ("pir1", "pir_1"),
    "pir2": ("pir2", "pir_2"),
    "pir3": ("pir3", "pir_3"),
    "preempted": ("preempted",),
    "blocking": ("blocking", "is_blocking"),
    "vcpu": ("vcpu", "vcpu_id"),
    "vcpu_cpu": ("vcpu_cpu", "oldcpu", "old_cpu"),
}
"""What an argument may be, and the names under which it is recognized."""


def point_of_event(name: str) -> Point | None:
    """Where a probe of that name sits; None: it is none that piscope knows."""
    if _SYNC.fullmatch(name):
        return Point.SYNC
    match = _RECOGNIZED.fullmatch(name)
    if match is None:
        return None
    done = match["done"] is not None or match["r"] is not None
    if match["what"].lower() == "load":
        return Point.LOAD_DONE if done else Point.LOAD
    return Point.PUT_DONE if done else Point.PUT


_READ_AS = {
    Point.LOAD: "pi_load",
    Point.LOAD_DONE: "pi_load_return",
    Point.SYNC: "sync_pir",
    Point.PUT: "pi_put",
    Point.PUT_DONE: "pi_put_return",
}


@dataclass(frozen=True, slots=True)
class ProbeNames:
    """What the user said of the probes; all else is recognized by its name.

    events     the probe's event (`NAME` or `SYSTEM:NAME`) for each point it sits at
    arguments  key of ARGUMENTS -> the probe's own name for it
    """

    events: Mapping[Point, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of_options(
        events: Mapping[Point, str | None], arguments: Sequence[str]
    ) -> ProbeNames:
        """From `--probe-...` and `--arg KEY=NAME,KEY=NAME` as they were written.

        `pir=w{0..3}` names four words at once.

        Raises UsageError for a key that is none, or a name that is given twice.
        """
        named: dict[str, str] = {}
        for pair in (p for text in arguments for p in text.split(",")):
            key, equals, name = (part.strip() for part in pair.partition("="))
            if not equals or not name or key not in ARGUMENTS:
                raise UsageError(
                    f"--arg {pair!r}: expected KEY=NAME with KEY one of "
                    f"{', '.join(ARGUMENTS)}"
                )
            words = {key: name}
            if key == "pir" and "{0..3}" in name:
                words = {f"pir{i}": name.replace("{0..3}", str(i)) for i in range(4)}
            for word, own_name in words.items():
                if named.setdefault(word, own_name) != own_name:
                    raise UsageError(f"--arg {word}: named {named[word]} already")
        return ProbeNames({p: n for p, n in events.items() if n}, named)

    def event(self, system: str, name: str) -> str:
        """The name under which an event is read."""
        for point, own_name in self.events.items():
            if own_name in (name, f"{system}:{name}"):
                return _READ_AS[point]
        point_here = point_of_event(name)
        if point_here is None:
            return name
        if point_here in self.events:
            return f"not used: {name}"  # another event was named for this point
        # Most names are known to the timeline as they are: those stay.
        return name if _PLAIN.fullmatch(name) else _READ_AS[point_here]

    def column(self, name: str) -> str:
        """The name under which a probe's argument is read."""
        for key, own_name in self.arguments.items():
            if own_name == name:
                return key
        for key, names in ARGUMENTS.items():
            if name in names and key not in self.arguments:
                return key
        return f"not used: {name}" if name in ARGUMENTS else name


class RenamedSource:
    """A source whose probes have the names that piscope knows.

    ctl_first  whether the probes read the control word before PIR, by the order of
               their arguments; None: no event told yet
    """

    def __init__(self, source: Source, names: ProbeNames) -> None:
        self._source = source
        self._names = names
        self._read_as: dict[tuple[str, str], str] = {}
        self.ctl_first: bool | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    @property
    def events(self) -> list[tuple[str, str]]:
        """(system, name) of each event, by index."""
        return [(system, self._name(system, n)) for system, n in self._source.events]

    @property
    def formats(self) -> Mapping[str, EventFormat]:
        """Record layouts, under the names of the file."""
        return self._source.formats

    @property
    def counts(self) -> dict[str, int]:
        """Events in the file, by the names they are read under."""
        counts: dict[str, int] = {}
        for key, count in self._source.counts.items():
            system, _, name = key.rpartition(":")
            renamed = f"{system}:{self._name(system, name)}"
            counts[renamed] = counts.get(renamed, 0) + count
        return counts

    @property
    def recorded(self) -> dict[str, str]:
        """The probes that the file holds: as recorded -> as read."""
        found = {}
        for system, name in self._source.events:
            read_as = self._name(system, name)
            if point_of_event(read_as) is not None and self._source.counts.get(
                f"{system}:{name}"
            ):
                found[f"{system}:{name}"] = read_as
        return found

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        """The source's chunks, with the probes' arguments under their known names."""
        fields: dict[str, tuple[str, ...] | None] = dict.fromkeys(
            self._names.events.values()
        )
        fields.update(wanted.fields)
        fields.update(dict.fromkeys(PATTERNS))
        for chunk in self._source.chunks(replace(wanted, fields=fields)):
            for index, payload in chunk.payload.items():
                if point_of_event(self._name(*self._source.events[index])) is not None:
                    chunk.payload[index] = self._payload(payload)
            yield chunk

    def _name(self, system: str, name: str) -> str:
        key = (system, name)
        if key not in self._read_as:
            self._read_as[key] = self._names.event(system, name)
        return self._read_as[key]

    def _payload(self, payload: Payload) -> Payload:
        columns: dict[str, Array] = {}
        valid = {}
        for own_name, values in payload.columns.items():
            name = self._names.column(own_name)
            known = payload.valid.get(own_name)
            if name == "pir":
                for i, (word, good) in enumerate(_words(values)):
                    columns[f"pir{i}"] = word
                    if not good.all():
                        valid[f"pir{i}"] = good
                continue
            columns[name] = values
            if known is not None:
                valid[name] = known
        if "ctl" in columns and "pir0" in columns and self.ctl_first is not False:
            order = list(columns)
            self.ctl_first = order.index("ctl") < order.index("pir0")
        return Payload(payload.rows, columns, valid)


_TEXT_WORDS = re.compile(
    r"\{((?:0x[0-9a-fA-F]{1,16}|\d{1,20})(?:,(?:[^,{}]{1,20}))*)\}"
)


def _words(values: Array) -> list[tuple[Array, Array]]:
    """PIR as one array argument (`pir=+8(%di):x64[4]`): its four words, and validity.

    Binary records hold its 32 bytes, texts print `{0x0,0x0,0x0,0x0}`; elements of 32
    bits are put together.
    """
    words = np.zeros((len(values), 4), np.uint64)
    good = np.zeros(len(values), np.bool_)
    for i, value in enumerate(values.tolist()):
        numbers = _numbers(value)
        if numbers is not None:
            words[i], good[i] = numbers, True
    return [(words[:, i], good) for i in range(4)]


def _numbers(value: object) -> list[int] | None:
    if isinstance(value, bytes) and len(value) == 32:
        return [int.from_bytes(value[i : i + 8], "little") for i in range(0, 32, 8)]
    match = _TEXT_WORDS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        elements = [int(part, 0) for part in match[1].split(",")]
    except ValueError:
        return None
    bits = {4: 64, 8: 32}.get(len(elements))
    if bits is None or any(not 0 <= e < 1 << bits for e in elements):
        return None
    if bits == 32:
        elements = [elements[i] | elements[i + 1] << 32 for i in range(0, 8, 2)]
    return elements
