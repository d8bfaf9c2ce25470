"""Posts of other slices, as the slices themselves told them.

A slice holds the rows of posts around it, but not all that their call chains were told
by. So what each slice says of its own posts, where another slice needs them, is kept.

A call chain may begin in one slice and end in the next one. The former owns the post,
but among the scattered rows that it has of the latter it may take another's end for it;
the latter knows, because it has all rows right before the cut.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.tables import Posts
from piscope.whole import Scope

__all__ = ("KeptPosts",)

Numbers = npt.NDArray[np.int64]

_ROWS = ("at", "row", "cause")
_OF_DEVICE = ("device", "devices")


class KeptPosts:
    """The posts that slices other than their own need; rows are the whole trace's."""

    def __init__(self) -> None:
        self._parts: list[dict[str, npt.NDArray[Any]]] = []
        self._whole: dict[str, npt.NDArray[Any]] | None = None
        self._across: set[tuple[int, int]] = set()

    def end(self, posts: Posts, scope: Scope) -> None:
        """Tell which chains end in this slice that began in one before."""
        across = scope.own.rows(posts.row) & ~scope.own.rows(posts.at)
        at, row = scope.rows[posts.at[across]], scope.rows[posts.row[across]]
        self._across.update(zip(at.tolist(), row.tolist(), strict=True))

    def keep(self, posts: Posts, which: npt.NDArray[np.int64], scope: Scope) -> None:
        """Keep these posts (indexes) of a slice."""
        columns = {
            f.name: getattr(posts, f.name)[which]
            for f in fields(posts)
            if f.name not in _OF_DEVICE
        }
        columns["within"] = scope.own.rows(columns["row"])
        for name in _ROWS:
            columns[name] = scope.rows[columns[name]]
        self._parts.append(columns)
        self._whole = None

    def within(self, posts: Posts, scope: Scope) -> Posts:
        """A slice's own posts, and those kept of others whose rows it holds.

        Whom they meant is what this slice found, where their own had not found it yet.
        """
        own = scope.own.posts(posts)
        own[own] = self._real(
            scope.own.rows(posts.row[own]),
            scope.rows[posts.at[own]],
            scope.rows[posts.row[own]],
        )
        kept = self._all()
        if not kept:
            return _taken(posts, np.flatnonzero(own))
        found = {name: np.searchsorted(scope.rows, kept[name]) for name in _ROWS}
        last = len(scope.rows) - 1
        here = np.ones(len(kept["row"]), np.bool_)
        for name in _ROWS:
            here &= scope.rows[np.minimum(found[name], last)] == kept[name]
        here &= ~scope.own.rows(found["at"])
        which = np.flatnonzero(here)
        others = {name: values[which] for name, values in kept.items()}
        for name in _ROWS:
            others[name] = found[name][which]
        order = np.argsort(posts.row, kind="stable")
        if len(order):
            at = np.searchsorted(posts.row[order], others["row"])
            same = order[np.minimum(at, len(order) - 1)]
            told = (posts.row[same] == others["row"]) & (others["vcpu"] < 0)
            for name in ("vcpu", "target_by", "certain"):
                others[name] = np.where(told, getattr(posts, name)[same], others[name])
        others["device"] = np.full(len(which), -1, posts.device.dtype)
        mine = np.flatnonzero(own)
        joined: dict[str, Any] = {
            f.name: np.concatenate(
                [getattr(posts, f.name)[mine], others[f.name]]
            ).astype(getattr(posts, f.name).dtype)
            for f in fields(posts)
            if f.name != "devices"
        }
        return _taken(
            replace(posts, **joined), np.lexsort((joined["row"], joined["at"]))
        )

    def _all(self) -> dict[str, npt.NDArray[Any]]:
        if self._whole is None and self._parts:
            whole = {
                name: np.concatenate([part[name] for part in self._parts])
                for name in self._parts[0]
            }
            real = self._real(whole.pop("within"), whole["at"], whole["row"])
            self._whole = {name: values[real] for name, values in whole.items()}
        return self._whole or {}

    def _real(
        self, within: npt.NDArray[np.bool_], at: Numbers, row: Numbers
    ) -> npt.NDArray[np.bool_]:
        """bool[n]: those within a slice, and of the others those that really end there.

        `at` and `row` int64[n] are rows of the whole trace.
        """
        real = within.copy()
        for i in np.flatnonzero(~within).tolist():
            real[i] = (int(at[i]), int(row[i])) in self._across
        return real


def _taken(posts: Posts, at: npt.NDArray[np.int64]) -> Posts:
    columns = {
        f.name: getattr(posts, f.name)[at] for f in fields(posts) if f.name != "devices"
    }
    return replace(posts, **columns)
