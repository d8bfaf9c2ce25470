"""What is found by steps is what the index of the whole table finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.replay import near_rows
from piscope.replay.near_rows import NearRows
from piscope.replay.row_index import RowIndex, index_rows


def _both(owners: list[int]) -> tuple[NearRows, RowIndex]:
    owner = np.array(owners, np.int32)
    index = index_rows(owner, np.arange(len(owner)), len(owner))
    return NearRows(len(owner), lambda rows: owner[rows], lambda: index), index


@pytest.mark.parametrize("looks_per_row", [0.0, 0.5, 1e9])
@given(
    owners=st.lists(st.integers(-1, 3), max_size=30),
    asked=st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 32)), max_size=8),
)
def test_near_is_the_index(
    looks_per_row: float, owners: list[int], asked: list[tuple[int, int]]
) -> None:
    owner = np.array([o for o, _ in asked], np.int32)
    row = np.array([r for _, r in asked], np.int64)
    row = np.minimum(row, max(len(owners) - 1, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_rows, "_LOOKS_PER_ROW", looks_per_row)
        patch.setattr(near_rows, "_STEP_LOOKS", 1)
        near, index = _both(owners)
        for _ in range(2):  # the second time an index may be there already
            assert near.next_after(owner, row).tolist() == (
                index.next_after(owner, row).tolist()
            )
            assert near.last_up_to(owner, row).tolist() == (
                index.last_up_to(owner, row).tolist()
            )
            assert near.some_between(owner, row, row + 3).tolist() == (
                index.some_between(owner, row, row + 3).tolist()
            )


def test_no_index_is_made_for_what_is_near() -> None:
    owner = np.array([0, 1] * 50_000, np.int32)
    near = NearRows(len(owner), lambda rows: owner[rows], _no_index)
    row = np.array([9, 10, 11])
    assert near.last_up_to(np.array([0, 1, 1]), row).tolist() == [8, 9, 11]
    assert near.next_after(np.array([0, 0, 1]), row).tolist() == [10, 12, 13]


def _no_index() -> RowIndex:
    raise AssertionError("the index was asked for")
