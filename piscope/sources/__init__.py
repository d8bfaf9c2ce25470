"""Bytes to raw records: trace.dat, perf.data and text, recognised by content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piscope.sources.detect import open_trace

__all__ = ("open_trace",)


# On demand, so that importing a small module of the package stays cheap.
def __getattr__(name: str) -> Any:
    if name == "open_trace":
        from piscope.sources.detect import open_trace

        return open_trace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
