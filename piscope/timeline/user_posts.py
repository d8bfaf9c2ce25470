"""Posts that a user knows of, from a file: device timestamps, or a guest's trace.

    ts_ns,vcpu,vector,agent
    24006249294487,vm0/vcpu1,0x41,vtd
    24006249301022,tid:1893,65,ipiv

`ts_ns` is on the trace's clock; `vcpu` a label, a vcpu_id or `tid:N`, or in its place
two columns `vm` and `vcpu_id`; `agent` vtd (which is meant without it), ipiv or kvm.
Further columns are left alone. Parquet has the same columns, numbers or strings.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.errors import TraceFormatError
from piscope.origins import Evidence, Given, Origin
from piscope.tables import Events, Posts, Timeline, Vcpus

__all__ = ("UserPosts", "read_user_posts", "with_user_posts")

MOST_ROWS = 1 << 25
_MOST_BYTES = 1 << 31
_MOST_SHOWN = 40
# Vectors 0 to 15 are reserved: no interrupt can have them (SDM vol. 3, 6.2).
_VECTORS = (16, 255)
_INT64 = 1 << 63

_AGENTS = {agent.name.lower(): agent for agent in Given if agent is not Given.TRACED}
_EXPECTED = "expected columns ts_ns, vector, and vcpu, or vm and vcpu_id"


@dataclass(frozen=True, slots=True)
class UserPosts:
    """The rows of a file, in its order.

    path    the file, for errors
    by_line `row` are lines of a CSV
    row     int64[n]  line of a CSV, or number of the row of a Parquet file
    ts_ns   int64[n]
    target  the vCPU that each names, as a number of `names`
    names   the different vCPUs as written: `vm0/vcpu1`, `1`, `tid:7`, or (vm, vcpu_id)
    vector  int16[n]
    agent   uint8[n]  Given
    """

    path: str
    by_line: bool
    row: npt.NDArray[np.int64]
    ts_ns: npt.NDArray[np.int64]
    target: npt.NDArray[np.int32]
    names: tuple[str, ...]
    vector: npt.NDArray[np.int16]
    agent: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ts_ns)

    def error(self, at: int, message: str) -> TraceFormatError:
        """An error of a row, which it names."""
        row = int(self.row[at])
        if self.by_line:
            return TraceFormatError(message, path=self.path, line=row)
        return TraceFormatError(f"row {row}: {message}", path=self.path)


def read_user_posts(path: str) -> UserPosts:
    """Read a CSV, or a Parquet file (by its first bytes).

    Raises TraceFormatError, naming the line or row, for a file without the columns and
    for a value that is not what it should be; OSError where it can't be read.
    """
    with Path(path).open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
        size = file.seek(0, io.SEEK_END)
    if size > _MOST_BYTES:
        raise TraceFormatError(
            f"{size:,} bytes, expected at most {_MOST_BYTES:,}", path=path
        )
    return _gathered(path, not is_parquet, (_parquet if is_parquet else _csv)(path))


Rows = Iterator[tuple[int, dict[str, Any]]]


def _csv(path: str) -> Rows:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _has_columns(header, path, line=1)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise TraceFormatError(
                        f"{len(row)} values, expected {len(header)}",
                        path=path,
                        line=reader.line_num,
                    )
                yield reader.line_num, dict(zip(header, row, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceFormatError(
            f"neither Parquet nor CSV in UTF-8 ({error})", path=path
        ) from None


def _parquet(path: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            header = file.schema_arrow.names
            _has_columns(header, path)
            mine = [name for name in header if name in _COLUMNS]
            number = 0
            for batch in file.iter_batches(columns=mine):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0][:200]
        raise TraceFormatError(f"not a Parquet file: {said}", path=path) from None


_COLUMNS = ("ts_ns", "vcpu", "vm", "vcpu_id", "vector", "agent")


def _has_columns(names: Sequence[str], path: str, line: int | None = None) -> None:
    told = set(names)
    target = "vcpu" in told or {"vm", "vcpu_id"} <= told
    if not {"ts_ns", "vector"} <= told or not target or len(told) < len(names):
        found = ", ".join(repr(name[:_MOST_SHOWN]) for name in names[:8]) or "none"
        raise TraceFormatError(f"{_EXPECTED}; it has {found}", path=path, line=line)


def _gathered(path: str, by_line: bool, rows: Rows) -> UserPosts:
    numbers: list[int] = []
    ts_ns: list[int] = []
    target: list[int] = []
    vectors: list[int] = []
    agents: list[int] = []
    names: dict[str, int] = {}

    for number, row in rows:
        if len(numbers) == MOST_ROWS:
            raise TraceFormatError(f"more than {MOST_ROWS:,} posts", path=path)

        def whole(name: str, least: int, most: int, row: dict[str, Any] = row) -> int:
            value = _integer(row[name])
            if value is None or not least <= value <= most:
                raise ValueError(
                    f"{name} {_shown(row[name])}: expected an integer,"
                    f" {least} to {most}"
                )
            return value

        try:
            ts_ns.append(whole("ts_ns", -_INT64, _INT64 - 1))
            vectors.append(whole("vector", *_VECTORS))
            agents.append(_agent(row.get("agent")))
            name = _target(row, whole)
        except ValueError as error:
            if by_line:
                raise TraceFormatError(str(error), path=path, line=number) from None
            raise TraceFormatError(f"row {number}: {error}", path=path) from None
        target.append(names.setdefault(name, len(names)))
        numbers.append(number)
    return UserPosts(
        path=path,
        by_line=by_line,
        row=np.array(numbers, np.int64),
        ts_ns=np.array(ts_ns, np.int64),
        target=np.array(target, np.int32),
        names=tuple(names),
        vector=np.array(vectors, np.int16),
        agent=np.array(agents, np.uint8),
    )


_DIGITS = re.compile(r"[+-]?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})")


def _integer(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip() if isinstance(value, str) else ""
    if not _DIGITS.fullmatch(text):
        return None
    return int(text, 16 if "x" in text.lower() else 10)


def _target(row: dict[str, Any], whole: Callable[[str, int, int], int]) -> str:
    if "vcpu" not in row:
        most = (1 << 31) - 1
        return f"vm{whole('vm', 0, most)}:{whole('vcpu_id', 0, most)}"
    value = row["vcpu"]
    text = str(value).strip()
    if isinstance(value, (bool, float)) or value is None or not text:
        raise ValueError(f"vcpu {_shown(value)}: expected a label, a vcpu_id, or tid:N")
    return text


def _agent(value: object) -> int:
    text = "" if value is None else str(value).strip().lower()
    if not text:
        return Given.VTD
    if text not in _AGENTS:
        raise ValueError(f"agent {_shown(value)}: expected {', '.join(_AGENTS)}")
    return _AGENTS[text]


def _shown(value: object) -> str:
    return repr(value if not isinstance(value, str) else value[:_MOST_SHOWN])


def with_user_posts(
    timeline: Timeline, events: Events, given: UserPosts, *, narrowed: bool = False
) -> Timeline:
    """The timeline with the given posts among its own.

    `narrowed`: only a part of the trace was read; what lies outside of it is left out.

    Raises TraceFormatError, naming the line or row, for an instant outside of the
    trace, and for a vCPU that it does not hold, or that several could be.
    """
    first_ns, last_ns = timeline.span_ns
    outside = (given.ts_ns < first_ns) | (given.ts_ns > last_ns)
    if outside.any() and not narrowed:
        first = int(np.argmax(outside))
        raise given.error(
            first,
            f"ts_ns {given.ts_ns[first]}: outside of the trace, {first_ns} to {last_ns}"
            f" (clock {events.info.clock or 'unknown'})",
        )
    vcpu = _found(given, timeline.vcpus)
    kept = np.flatnonzero(~outside)
    kept = kept[np.argsort(given.ts_ns[kept], kind="stable")]
    ts_ns, n = given.ts_ns[kept], len(kept)
    row = np.searchsorted(events.ts_ns, ts_ns, side="right") - 1
    ids = [-1 if v.vcpu_id is None else v.vcpu_id for v in timeline.vcpus.rows]
    mine = Posts(
        ts_ns=ts_ns,
        at=row,
        row=row,
        vcpu=vcpu[kept],
        vcpu_id=np.array(ids, np.int32)[vcpu[kept]],
        vector=given.vector[kept],
        msi=np.zeros(n, np.bool_),
        unicast=np.zeros(n, np.bool_),
        cpu=np.full(n, -1, np.int32),
        tid=np.full(n, -1, np.int32),
        posted=np.ones(n, np.bool_),
        certain=np.ones(n, np.bool_),
        origin=np.full(n, Origin.UNKNOWN, np.uint8),
        evidence=np.full(n, Evidence.NONE, np.uint8),
        cause=row,
        postable=np.zeros(n, np.bool_),
        host_irq=np.full(n, -1, np.int32),
        device=np.full(n, -1, np.int32),
        devices=timeline.posts.devices,
        target_by=np.zeros(n, np.uint8),
        given=given.agent[kept],
    )
    return replace(timeline, posts=_merged(timeline.posts, mine))


def _merged(traced: Posts, given: Posts) -> Posts:
    # at the same event the traced one is first: it is that event
    at = np.concatenate([traced.at, given.at])
    order = np.argsort(at, kind="stable")
    columns = {
        f.name: np.concatenate([getattr(traced, f.name), getattr(given, f.name)])[order]
        for f in fields(Posts)
        if f.name != "devices"
    }
    return Posts(**columns, devices=traced.devices)


def _found(given: UserPosts, vcpus: Vcpus) -> npt.NDArray[np.int32]:
    """int32[n]: the vCPU of each row."""
    number = np.zeros(len(given.names), np.int32)
    for place, name in enumerate(given.names):
        at = int(np.argmax(given.target == place))
        found = [
            v.vcpu
            for v in vcpus.rows
            if name
            in (v.label, str(v.vcpu_id), f"tid:{v.tid}", f"vm{v.vm}:{v.vcpu_id}")
        ]
        labels = [vcpus.rows[i].label for i in (found or range(min(len(vcpus), 8)))]
        if len(found) != 1:
            what = "could be" if found else "this trace has"
            raise given.error(at, f"vCPU {_shown(name)}: {what} {', '.join(labels)}")
        number[place] = found[0]
    return number[given.target]
