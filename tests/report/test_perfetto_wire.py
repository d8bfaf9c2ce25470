"""Messages laid out by the million are, byte for byte, what protobuf writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.report.perfetto_tracks import definitions
from piscope.report.perfetto_wire import (
    Rows,
    constant,
    fixed64,
    message,
    optional,
    tag,
    varint,
)

pb = definitions()
numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))


@given(st.lists(st.tuples(numbers, numbers, numbers, st.booleans()), max_size=20))
def test_as_protobuf_writes_it(events: list[tuple[int, int, int, bool]]) -> None:
    expected = pb.Trace()
    for ts_ns, name, flow, flows in events:
        packet = expected.packet.add(timestamp=ts_ns, trusted_packet_sequence_id=77)
        packet.track_event.name_iid = name
        packet.track_event.type = pb.TrackEvent.TYPE_INSTANT
        if flows:
            packet.track_event.flow_ids.append(flow)
            packet.track_event.debug_annotations.add(name_iid=5, int_value=name)
    event = pb.TrackEvent.DESCRIPTOR.fields_by_name
    column = [np.array(values, np.int64) for values in zip(*events, strict=True)]
    ts_ns, name, flow, flows = column or [np.empty(0, np.int64)] * 4
    argument = message(
        event["debug_annotations"].number,
        constant(pb.DebugAnnotation(name_iid=5).SerializeToString()),
        varint(pb.DebugAnnotation.DESCRIPTOR.fields_by_name["int_value"].number, name),
    )
    rows = message(
        1,
        varint(8, ts_ns),
        constant(pb.TracePacket(trusted_packet_sequence_id=77).SerializeToString()),
        message(
            11,
            optional(flows > 0, argument),
            constant(
                pb.TrackEvent(type=pb.TrackEvent.TYPE_INSTANT).SerializeToString()
            ),
            varint(event["name_iid"].number, name),
            optional(flows > 0, fixed64(event["flow_ids"].number, flow)),
        ),
    )
    assert rows.to_bytes() == expected.SerializeToString()


def test_widths_of_varints() -> None:
    values = [0, 1, 127, 128, 2**14 - 1, 2**14, 2**35, 2**63 - 1]
    rows = varint(3, np.array(values))
    expected = b"".join(
        pb.DebugAnnotation(uint_value=value).SerializeToString() for value in values
    )
    assert rows.to_bytes() == expected


def test_keys_of_large_numbers() -> None:
    assert tag(1, 2) == b"\x0a"
    assert tag(58, 0) == b"\xd0\x03"


def test_no_row_is_no_byte() -> None:
    none = np.empty(0, np.int64)
    assert message(1, varint(8, none), constant(b"x")).to_bytes() == b""
    assert Rows([], 0).to_bytes() == b""


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="field 8: -1 is negative"):
        varint(8, np.array([3, -1]))
