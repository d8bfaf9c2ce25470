"""Events that are gathered chunk by chunk are those of all chunks joined at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.events import gather
from piscope.events.gather import Gathered
from piscope.events.merge import joined
from piscope.sources.raw import Payload, RawChunk

# A field as the chunks of a text may bring it: in each of another type, or not at all.
_DTYPES = ("i4", "i8", "u8", "S2", "S5", "O", None)


def _column(dtype: str, count: int, start: int) -> np.ndarray:
    if dtype == "O":
        return np.array([f"w{start + i}" for i in range(count)], object)
    return np.arange(start, start + count).astype(dtype)


def _chunks(shapes: list[tuple[int, dict[str, str | None], bool]]) -> list[RawChunk]:
    chunks, start = [], 0
    for count, dtypes, some_missing in shapes:
        columns = {
            name: _column(dtype, count, start)
            for name, dtype in dtypes.items()
            if dtype is not None
        }
        valid = {name: np.arange(count) % 2 == 0 for name in columns if some_missing}
        place = np.arange(start, start + count)
        chunks.append(
            RawChunk(
                ts_ns=place * 10,
                cpu=(place % 3).astype(np.int32),
                seq=place,
                tid=place.astype(np.int32),
                flags=place.astype(np.uint8),
                event=np.full(count, 4, np.uint16),
                payload={4: Payload(np.arange(count), columns, valid)} if count else {},
            )
        )
        start += count
    return chunks


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.fixed_dictionaries(
                {"a": st.sampled_from(_DTYPES), "b": st.sampled_from(_DTYPES)}
            ),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_gathered_is_joined(
    shapes: list[tuple[int, dict[str, str | None], bool]],
) -> None:
    chunks = _chunks(shapes)
    gathered = Gathered()
    for chunk in chunks:
        gathered.extend(chunk)
    one, other = gathered.whole(), joined(chunks)
    for name in ("ts_ns", "cpu", "tid", "flags", "event"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.payload.keys() == other.payload.keys()
    for index, payload in one.payload.items():
        same = other.payload[index]
        np.testing.assert_array_equal(payload.rows, same.rows)
        assert payload.columns.keys() == same.columns.keys()
        assert payload.valid.keys() == same.valid.keys()
        for name, values in payload.columns.items():
            known = payload.valid.get(name, np.ones(len(values), bool))
            assert values[known].tolist() == same.columns[name][known].tolist()
            if name in same.valid:
                np.testing.assert_array_equal(known, same.valid[name])


@pytest.mark.parametrize("mapped", [False, True])
def test_a_column_grows_past_its_room(
    mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_MAP_GROWS", mapped and gather._MAP_GROWS)
    values = np.arange(3 * gather._MAPPED_BYTES // 8 + 5)
    column = gather._Column(np.int32)
    for part in np.array_split(values.astype(np.int32), 9):
        column.extend(part)
    # the last ones are wider than those before
    column.extend(values + (1 << 40))
    wanted = np.concatenate([values, values + (1 << 40)])
    np.testing.assert_array_equal(column.values(), wanted)


def test_rows_that_do_not_fit_int32_are_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_INT32_MAX", 8)
    gathered = Gathered()
    for chunk in _chunks([(5, {}, False), (4, {}, False)]):
        gathered.extend(chunk)
    assert gathered.whole().payload[4].rows.dtype == np.int32
    for chunk in _chunks([(3, {}, False)]):
        gathered.extend(chunk)
    rows = gathered.whole().payload[4].rows
    assert rows.dtype == np.int64
    assert rows.tolist() == list(range(12))
