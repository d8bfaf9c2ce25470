"""Format texts of many kernels, and the gathering of every kind of field."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from writers.trace_events import BY_NAME, Endian, Event, record_of

from piscope.errors import TraceFormatError
from piscope.sources.event_format import (
    Decoder,
    PageLayout,
    parse_event_format,
    parse_header_page,
    scan_id_name,
)
from piscope.sources.raw import EventFormat, Field

SWITCH = """name: sched_switch
ID: 305
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:long prev_state;\toffset:32;\tsize:8;\tsigned:1;

print fmt: "prev_comm=%s ==> %s", REC->prev_comm, "field:int not; offset:1; size:2;"
"""

DECLARATIONS = {
    "unsigned int vcpu_id": ("vcpu_id", "unsigned int", "int", 4),
    "char comm[16]": ("comm", "char[16]", "chars", 16),
    "char[16] comm": ("comm", "char[16]", "chars", 16),  # synthetic events
    "__data_loc char[] name": ("name", "__data_loc char[]", "dynamic", 4),
    "__rel_loc char[] name": ("name", "__rel_loc char[]", "relative", 4),
    "__data_loc cpumask_t mask": ("mask", "__data_loc cpumask_t", "dynamic", 4),
    "unsigned long args[6]": ("args", "unsigned long[6]", "array", 48),
    "u32 buf[]": ("buf", "u32[]", "array", 0),
    "const char * fmt": ("fmt", "const char *", "int", 8),
    "char *str": ("str", "char *", "int", 8),
    "void (*func)(struct callback_head *)": (
        "func",
        "void (*func)(struct callback_head *)",
        "int",
        8,
    ),
    "struct pi_desc desc": ("desc", "struct pi_desc", "array", 64),
    "unsigned char b[8]": ("b", "unsigned char[8]", "array", 8),
    "char long_text[4096]": ("long_text", "char[4096]", "array", 4096),
}


def parse(declaration: str, size: int, tail: str = "\tsigned:0;") -> Field:
    text = f"name: x\nID: 1\nformat:\n\tfield:{declaration};\toffset:8;\tsize:{size};"
    return parse_event_format(text + tail + "\n", "s").fields[0]


def test_a_format_has_its_common_fields_apart_and_its_print_fmt_as_text() -> None:
    parsed = parse_event_format(SWITCH, "sched")
    assert (parsed.key, parsed.id) == ("sched:sched_switch", 305)
    assert [f.name for f in parsed.common] == ["common_type", "common_pid"]
    assert [f.name for f in parsed.fields] == ["prev_comm", "prev_state"]
    assert parsed.fields[1] == Field("prev_state", "long", 32, 8, True, "int")
    assert parsed.print_fmt.startswith('"prev_comm=%s')
    assert parsed.field("common_pid") is parsed.common[1]


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_declarations(declaration: str) -> None:
    name, c_type, kind, size = DECLARATIONS[declaration]
    field = parse(declaration, size)
    assert (field.name, field.c_type, field.kind) == (name, c_type, kind)


def test_without_signed_the_type_decides() -> None:
    assert parse("int a", 4, "").signed
    assert not parse("unsigned int a", 4, "").signed
    assert not parse("u64 a", 8, "").signed


@pytest.mark.parametrize(
    "text", ["", "name: x\nID: 70000\nformat:\n", "ID: 5\n", "name: x\nID: 1\n"]
)
def test_what_is_no_format_is_refused(text: str) -> None:
    with pytest.raises(TraceFormatError):
        parse_event_format(text, "s")


def test_scan_finds_what_parsing_finds() -> None:
    assert scan_id_name(SWITCH) == (305, "sched_switch")
    assert scan_id_name(b"name: a b\nID: 7\n") == (7, "a b")
    assert scan_id_name(b"name: a\n# odd\nID: 7\nformat:\n") == (7, "a")
    assert scan_id_name(b"nothing") is None


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_text_is_a_format_or_an_error(text: bytes | str) -> None:
    scan_id_name(text)
    for parser in (lambda t: parse_event_format(t, "s"), parse_header_page):
        with contextlib.suppress(TraceFormatError):
            parser(text)


def test_header_page_is_read_by_field_names() -> None:
    text = (
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        "\tfield: local_t commit;\toffset:8;\tsize:4;\tsigned:1;\n"
        "\tfield: char overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
        "\tfield: char data;\toffset:12;\tsize:4084;\tsigned:0;\n"
    )
    assert parse_header_page(text) == PageLayout(0, 8, 4, 8, 12, 4084)
    assert parse_header_page(text).page_size == 4096
    with pytest.raises(TraceFormatError, match="commit"):
        parse_header_page(text.replace("commit", "committed"))
    with pytest.raises(TraceFormatError, match="impossible"):
        parse_header_page(text.replace("offset:12", "offset:6"))


# Records of one event at any alignment, one after the other, as `shift` says.
def laid_out(records: list[bytes], shift: int) -> tuple[np.ndarray, ...]:
    data, starts = bytearray(shift), []
    for record in records:
        starts.append(len(data))
        data += record + bytes(-len(record) % 4)
    lengths = [len(record) for record in records]
    return np.frombuffer(bytes(data), np.uint8), np.array(starts), np.array(lengths)


def all_kinds(endian: Endian, long_size: int) -> tuple[EventFormat, list[bytes]]:
    point = BY_NAME["all_kinds"]
    rows = [
        {
            "bytes": bytes(range(i, i + 6)),
            "minus": -i,
            "relative": f"rel {i}",
            "blob": bytes([i]) * i,
            "wide": -(1 << 40) - i,
            "narrow": 65535 - i,
        }
        for i in range(5)
    ]
    events = [Event("all_kinds", 0, 0, 7, row) for row in rows]
    text = point.format(long_size)
    return (
        parse_event_format(text, point.system),
        [record_of(e, point, endian, long_size) for e in events],
    )


@pytest.mark.parametrize("shift", [0, 4, 1, 3])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_every_kind_of_field_in_either_byte_order(endian: Endian, shift: int) -> None:
    layout, records = all_kinds(endian, 8)
    data, starts, lengths = laid_out(records, shift)
    payload = Decoder(endian).payload(data, starts, lengths, np.arange(5), layout)
    columns = payload.columns
    assert payload.valid == {}
    assert columns["minus"].tolist() == [0, -1, -2, -3, -4]
    assert columns["minus"].dtype == np.int16
    assert columns["wide"].tolist() == [-(1 << 40) - i for i in range(5)]
    assert columns["narrow"].tolist() == [65535 - i for i in range(5)]
    assert columns["bytes"].tolist() == [bytes(range(i, i + 6)) for i in range(5)]
    assert columns["relative"].tolist() == [f"rel {i}" for i in range(5)]
    assert columns["blob"].tolist() == [bytes([i]) * i for i in range(5)]


def test_a_record_that_is_too_short_lacks_the_field_and_no_other() -> None:
    layout, records = all_kinds("little", 8)
    data, starts, lengths = laid_out(records, 0)
    wide = layout.field("wide")
    assert wide is not None
    lengths[2] = wide.offset + 7
    lengths[4] = 0
    payload = Decoder("little").payload(data, starts, lengths, np.arange(5), layout)
    assert payload.valid["wide"].tolist() == [True, True, False, True, False]
    assert payload.columns["wide"].tolist()[2] == 0
    assert payload.valid["minus"].tolist() == [True, True, True, True, False]
    # The dynamic parts lie behind `wide`, and so are outside as well.
    assert payload.valid["relative"].tolist() == [True, True, False, True, False]
    assert payload.columns["relative"].tolist()[2] == ""
    assert payload.columns["blob"].tolist()[2] == b""


def test_text_ends_at_its_first_nul() -> None:
    field = Field("comm", "char[8]", 0, 8, False, "chars")
    data = np.frombuffer(b"ab\0junk\0" + b"whole8ch" + bytes(8), np.uint8)
    values, valid = Decoder("little").column(
        data, np.array([0, 8, 16]), np.array([8, 8, 8]), field
    )
    assert valid is None
    assert values.tolist() == [b"ab", b"whole8ch", b""]


def test_only_the_named_fields_that_exist_are_given() -> None:
    layout, records = all_kinds("little", 8)
    data, starts, lengths = laid_out(records, 0)
    payload = Decoder("little").payload(
        data, starts, lengths, np.arange(5), layout, names=("narrow", "absent")
    )
    assert list(payload.columns) == ["narrow"]


@given(
    data=st.binary(max_size=200),
    places=st.lists(
        st.tuples(st.integers(0, 220), st.integers(0, 300)), min_size=1, max_size=8
    ),
    endian=st.sampled_from(["little", "big"]),
)
def test_no_record_can_lead_outside_the_buffer(
    data: bytes, places: list[tuple[int, int]], endian: Endian
) -> None:
    layout = parse_event_format(BY_NAME["all_kinds"].format(8), "test")
    raw = np.frombuffer(data, np.uint8)
    starts = np.array([at for at, _ in places], np.int64)
    lengths = np.array([size for _, size in places], np.int64)
    payload = Decoder(endian).payload(
        raw, starts, lengths, np.arange(len(places)), layout
    )
    narrow = layout.field("narrow")
    assert narrow is not None
    for i, (at, size) in enumerate(places):
        here = min(size, len(data) - at) >= narrow.offset + 2
        assert here == bool(payload.valid.get("narrow", np.ones(len(places)))[i])
        if here:
            place = at + narrow.offset
            expected = int.from_bytes(data[place : place + 2], endian)
            assert payload.columns["narrow"][i] == expected
