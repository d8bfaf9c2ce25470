"""Looking up the last place that holds, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.replay import row_index
from piscope.replay.row_index import last_place


@given(
    st.lists(st.booleans(), max_size=40),
    st.lists(st.integers(-1, 50), max_size=20),
    st.integers(1, 9),
)
def test_the_last_place_up_to_each(
    where: list[bool], asked: list[int], at_once: int
) -> None:
    asked = sorted(asked)
    expected = [
        max((i for i, holds in enumerate(where) if holds and i <= q), default=-1)
        for q in asked
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_index, "_AT_ONCE", at_once)
        found = last_place(np.array(where, np.bool_), np.array(asked, np.int64))
    assert found.tolist() == expected


def test_places_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="out of order"):
        last_place(np.ones(4, np.bool_), np.array([3, 1]))
