"""Event formats as tracefs prints them, and the decoding of records by them.

To be read beside libtraceevent's event-parse.c and, for what the kernel prints,
kernel/trace/trace_events.c (f_show) and kernel/trace/ring_buffer.c
(ring_buffer_print_page_header). `print fmt` is kept as text and never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from piscope.errors import TraceFormatError
from piscope.sources.raw import Array, EventFormat, Field, FieldKind, Payload

__all__ = (
    "DEFAULT_PAGE_LAYOUT",
    "ByteOrder",
    "Decoder",
    "PageLayout",
    "parse_event_format",
    "parse_header_page",
    "scan_id_name",
)

ByteOrder = Literal["little", "big"]
Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# The kernel's own limit: TRACE_EVENT_TYPE_MAX, ids are a u16 in every record.
_MAX_EVENT_ID = (1 << 16) - 1
# No record is longer than a sub-buffer, and no kernel has larger ones than this.
_MAX_RECORD_BYTES = 1 << 27
# Longer char arrays are kept as bytes objects: S<N> costs N bytes in every row,
# also in those whose record is too short to hold the field.
_MAX_CHARS_BYTES = 256

# "\tfield:unsigned int vcpu_id;\toffset:8;\tsize:4;\tsigned:0;"; kernels before
# "tracing: Add 'signed' field to format files" (26a50744b21f, v2.6.33) end at size.
_FIELD = re.compile(
    r"^\s*field:\s*(?P<declaration>[^;]*);\s*offset:\s*(?P<offset>\d{1,9});"
    r"\s*size:\s*(?P<size>\d{1,9});(?:\s*signed:\s*(?P<signed>\d+);)?"
)
_ARRAY_SUFFIX = re.compile(r"\s*(?P<suffix>(?:\[[^\]]*\])+)\s*$")
_LAST_NAME = re.compile(r"(?P<name>[A-Za-z_$]\w*)\s*$")
_FUNCTION_POINTER = re.compile(r"\(\s*\*\s*(?P<name>\w+)\s*\)")
_NAME_AND_ID = re.compile(rb"^name:[ \t]*(\S+)[^\n]*\n(?:[^\n]*\n)*?ID:[ \t]*(\d{1,9})")


@dataclass(frozen=True, slots=True)
class PageLayout:
    """Where a sub-buffer keeps its time, its commit word and its data, in bytes.

        | ts 8 | commit 4 or 8 | data ... |

    `overwrite_offset` is None on kernels that do not print the field. `data_size`
    is the room for events in one sub-buffer as header_page states it; a v7 file
    may hold other sizes, one for each buffer.
    """

    ts_offset: int = 0
    commit_offset: int = 8
    commit_size: int = 8
    overwrite_offset: int | None = 8
    data_offset: int = 16
    data_size: int = 4080

    @property
    def long_size(self) -> int:
        """sizeof(long) of the traced kernel: commit is a local_t."""
        return self.commit_size

    @property
    def page_size(self) -> int:
        """Bytes of a whole sub-buffer."""
        return self.data_offset + self.data_size


DEFAULT_PAGE_LAYOUT = PageLayout()
"""4 KiB pages of a 64-bit kernel, for files whose header_page can't be read."""


def _text(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def scan_id_name(text: bytes | str) -> tuple[int, str] | None:
    """The id and the name in a format text, without parsing its fields.

    None where the text names no event or no id that a record could carry. Costs
    about a microsecond, so that a file's thousands of formats can all be scanned.

    Source: kernel/trace/trace_events.c, f_show().
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    first, _, rest = data.partition(b"\n")
    second = rest[:32].partition(b"\n")[0]
    if first[:6] == b"name: " and second[:4] == b"ID: " and second[4:].isdigit():
        name, number = first[6:].strip(), int(second[4:])
    else:
        match = _NAME_AND_ID.search(data[:4096])
        if match is None:
            return None
        name, number = match[1], int(match[2])
    if not name or number > _MAX_EVENT_ID:
        return None
    return number, name.decode("utf-8", "replace")


def _parse_field(line: str) -> Field | None:
    match = _FIELD.match(line)
    if match is None:
        return None
    c_type, suffix, name = _split_declaration(match["declaration"])
    offset, size = int(match["offset"]), int(match["size"])
    if not name or offset + size > _MAX_RECORD_BYTES:
        return None
    signed = (
        match["signed"] != "0"
        if match["signed"] is not None
        else not re.match(r"(unsigned\b|u\d|__u\d|size_t|bool)", c_type)
    )
    return Field(
        name=name,
        c_type=c_type + suffix,
        offset=offset,
        size=size,
        signed=signed,
        kind=_field_kind(c_type, suffix, size),
    )


# "char comm[16]", and "char[16] comm" of synthetic events -> ("char", "[16]", "comm");
# "__data_loc char[] name" -> ("__data_loc char", "[]", "name"); a function pointer's
# name is inside it.
def _split_declaration(declaration: str) -> tuple[str, str, str]:
    array = _ARRAY_SUFFIX.search(declaration)
    suffix = array["suffix"] if array else ""
    head = declaration[: array.start()] if array else declaration
    pointer = _FUNCTION_POINTER.search(head)
    if pointer is not None:
        return head.strip(), suffix, pointer["name"]
    last = _LAST_NAME.search(head)
    if last is None:
        return head.strip(), suffix, ""
    c_type = head[: last.start()].strip()
    array = _ARRAY_SUFFIX.search(c_type)
    if array is not None:
        c_type, suffix = c_type[: array.start()], suffix + array["suffix"]
    return c_type, suffix, last["name"]


def _field_kind(c_type: str, suffix: str, size: int) -> FieldKind:
    if c_type.startswith("__data_loc"):
        return "dynamic" if size == 4 else "array"
    if c_type.startswith("__rel_loc"):
        return "relative" if size == 4 else "array"
    if suffix:
        is_text = c_type in ("char", "signed char", "const char")
        return "chars" if is_text and 0 < size <= _MAX_CHARS_BYTES else "array"
    return "int" if size in (1, 2, 4, 8) else "array"


def parse_event_format(text: bytes | str, system: str) -> EventFormat:
    """The record layout that a format text describes.

    Common fields are those before the blank line between the two groups (all
    their names begin with `common_`, which is what is tested). A field line that
    can't be parsed is left out.

    Raises TraceFormatError where the text has no usable name, id or field.
    Source: kernel/trace/trace_events.c, f_show(); libtraceevent's parse_format().
    """
    identity = scan_id_name(text)
    if identity is None:
        raise TraceFormatError(
            f"an event format of system {system!r} has no 'name:' and 'ID:' lines"
        )
    head, _, print_fmt = _text(text).partition("\nprint fmt:")
    common: list[Field] = []
    fields: list[Field] = []
    for line in head.split("\n"):
        parsed = _parse_field(line)
        if parsed is not None:
            (common if parsed.name.startswith("common_") else fields).append(parsed)
    if not common and not fields:
        raise TraceFormatError(
            f"the format of event {system}:{identity[1]} has no 'field:' lines"
        )
    return EventFormat(
        system=system,
        name=identity[1],
        id=identity[0],
        common=tuple(common),
        fields=tuple(fields),
        print_fmt=print_fmt.strip(),
    )


def parse_header_page(text: bytes | str) -> PageLayout:
    """The sub-buffer layout that tracefs `events/header_page` describes.

    Fields are found by name: `overwrite` is an int on older kernels and a char on
    newer ones, always of size 1 and inside the commit word.

    Raises TraceFormatError where a field is missing or its place is impossible.
    Source: kernel/trace/ring_buffer.c, ring_buffer_print_page_header().
    """
    found: dict[str, Field] = {}
    for line in _text(text).split("\n"):
        parsed = _parse_field(line)
        if parsed is not None:
            found[parsed.name] = parsed
    missing = [name for name in ("timestamp", "commit", "data") if name not in found]
    if missing:
        raise TraceFormatError(f"header_page does not describe {', '.join(missing)}")
    ts, commit, data = found["timestamp"], found["commit"], found["data"]
    overwrite = found.get("overwrite")
    layout = PageLayout(
        ts_offset=ts.offset,
        commit_offset=commit.offset,
        commit_size=commit.size,
        overwrite_offset=None if overwrite is None else overwrite.offset,
        data_offset=data.offset,
        data_size=data.size,
    )
    if (
        ts.size != 8
        or commit.size not in (4, 8)
        or not (ts.offset + 8 <= data.offset and commit.offset + 4 <= data.offset <= 64)
        or any(f.offset % 4 for f in (ts, commit, data))
        or not 0 < data.size < _MAX_RECORD_BYTES
        or data.size % 4
    ):
        raise TraceFormatError(f"header_page describes an impossible page: {layout}")
    return layout


class Decoder:
    """Gathers fields of many records at once from one buffer of bytes.

    A record is given by the place of its first byte (where common_type is) and
    its length in bytes; records may overlap, be empty, and lie at any alignment.
    Where all lie at multiples of 4, as in a ring buffer, gathering is fastest.
    """

    def __init__(self, byte_order: ByteOrder) -> None:
        self._order = "<" if byte_order == "little" else ">"
        self._words = np.dtype(self._order + "u4")

    def integers(
        self, data: Bytes, at: Index, size: int, *, signed: bool = False
    ) -> Array:
        """The integers of `size` bytes (1, 2, 4 or 8) at byte places `at` of `data`.

        All of them must lie inside; native byte order.
        """
        kind = "i" if signed else "u"
        stored = np.dtype(f"{self._order}{kind}{size}")
        native = stored.newbyteorder("=")
        if size == 1:
            return data.take(at, mode="clip").view(native)
        unit = min(size, 4)
        # take() of an unaligned array would first copy all of it.
        aligned = data.ctypes.data % unit == 0 and data.flags.c_contiguous
        if not aligned or (len(at) and np.bitwise_or.reduce(at) & (unit - 1)):
            spread = data.take(at[:, None] + np.arange(size), mode="clip")
            return spread.view(stored).reshape(len(at)).astype(native, copy=False)
        units = data[: len(data) & -unit].view(f"{self._order}u{unit}")
        first = at >> (unit.bit_length() - 1)
        if size <= 4:
            gathered = units.take(first, mode="clip").view(stored)
        else:
            pairs = np.empty((len(at), 2), units.dtype)
            pairs[:, 0] = units.take(first, mode="clip")
            pairs[:, 1] = units.take(first + 1, mode="clip")
            gathered = pairs.view(stored).reshape(len(at))
        return gathered.astype(native, copy=False)

    def column(
        self, data: Bytes, starts: Index, lengths: Index, field: Field
    ) -> tuple[Array, Mask | None]:
        """One field of each record, and which of them have it (None: all).

        dtypes are those of `raw.Payload.columns`; where a record is too short for
        the field, or its dynamic part lies outside, the value is 0 or empty.
        """
        room = np.minimum(lengths, len(data) - starts)
        has = (room >= field.offset + field.size) & (starts >= 0)
        if bool(has.all()):
            return self._present(data, starts, room, field)
        values, inner = self._present(data, starts[has], room[has], field)
        if inner is not None:
            has[has] = inner
            values = values[inner]
        column = np.zeros(len(starts), values.dtype)
        if values.dtype == object:
            column[:] = "" if field.kind != "array" and _is_text(field) else b""
        column[has] = values
        return column, has

    # As column(), where every record is long enough for the field's fixed part.
    def _present(
        self, data: Bytes, starts: Index, room: Index, field: Field
    ) -> tuple[Array, Mask | None]:
        at = starts + field.offset
        if field.kind == "int":
            return self.integers(data, at, field.size, signed=field.signed), None
        if field.kind == "chars":
            return _chars(data, at, field.size), None
        if field.kind == "array":
            # T[] without a size, at the end of its record, has what is left of it
            rest = field.size == 0
            size = room - field.offset if rest else np.full(len(at), field.size)
            return _objects(data, at, size, text=rest and _is_text(field)), None
        place = self.integers(data, at, 4).astype(np.int64)
        length, offset = place >> 16, place & 0xFFFF
        if field.kind == "relative":
            offset += field.offset + field.size
        inside = offset + length <= room
        values = _objects(
            data, starts + offset, np.where(inside, length, 0), text=_is_text(field)
        )
        return values, None if bool(inside.all()) else inside

    def payload(
        self,
        data: Bytes,
        starts: Index,
        lengths: Index,
        rows: Index,
        layout: EventFormat,
        *,
        names: Iterable[str] | None = None,
    ) -> Payload:
        """The named fields of records of one event; None: all but the common ones.

        `rows` are the records' positions in their chunk. Names that the event
        lacks are left out.
        """
        if names is None:
            fields = list(layout.fields)
        else:
            fields = [f for f in map(layout.field, names) if f is not None]
        payload = Payload(rows=rows, columns={})
        room = np.minimum(lengths, len(data) - starts)
        # In the usual case no record is shorter than its event's fields are.
        least = int(room.min(initial=_MAX_RECORD_BYTES))
        if int(starts.min(initial=0)) < 0:
            least = 0
        for field in fields:
            if field.offset + field.size <= least:
                values, valid = self._present(data, starts, room, field)
            else:
                values, valid = self.column(data, starts, lengths, field)
            payload.columns[field.name] = values
            if valid is not None:
                payload.valid[field.name] = valid
        return payload


def _is_text(field: Field) -> bool:
    return re.search(r"\bchar\b", field.c_type) is not None


# char[N] at each place, as S<N>; the bytes after the first NUL are not text (the
# kernel's strscpy leaves what was there), and S<N> itself only drops trailing NULs.
def _chars(data: Bytes, at: Index, size: int) -> Array:
    if len(at) == 0:
        return np.zeros(0, f"S{size}")
    spread = data.take(at[:, None] + np.arange(size), mode="clip")
    nul = spread == 0
    # In the usual case, a NUL is never followed by anything else.
    if bool((nul[:, :-1] & ~nul[:, 1:]).any()):
        spread[np.logical_or.accumulate(nul, axis=1)] = 0
    return spread.view(f"S{size}").reshape(len(at))


# bytes or str objects; equal ones are one object, since most strings repeat.
def _objects(data: Bytes, at: Index, length: Index, *, text: bool) -> Array:
    values = np.empty(len(at), object)
    known: dict[bytes, bytes | str] = {}
    for i, (start, size) in enumerate(zip(at.tolist(), length.tolist(), strict=True)):
        raw = data[start : start + size].tobytes()
        value = known.get(raw)
        if value is None:
            value = raw.split(b"\0", 1)[0].decode("utf-8", "replace") if text else raw
            known[raw] = value
        values[i] = value
    return values
