"""The few ways in which piscope gives up, each with the place that made it do so.

One bad record is not an error: it is a row of LOSSES. An error here means that
nothing (more) can be said, and always ends in one line on stderr and exit
status 2; no traceback reaches a user for bad input.
"""

from __future__ import annotations

from pathlib import Path

__all__ = (
    "PiscopeError",
    "TraceFormatError",
    "UnanswerableError",
    "UnsupportedTraceError",
    "UsageError",
)


class PiscopeError(Exception):
    """Base of all errors that a user can cause.

    `path` is the file, `byte` the offset in it, `line` the 1-based line of a text;
    whichever are known are put before the message.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        byte: int | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else str(path)
        self.byte = byte
        self.line = line

    def __str__(self) -> str:
        where = []
        if self.path is not None:
            where.append(self.path)
        if self.line is not None:
            where.append(f"line {self.line}")
        if self.byte is not None:
            where.append(f"byte {self.byte}")
        return f"{', '.join(where)}: {self.message}" if where else self.message


class TraceFormatError(PiscopeError):
    """The bytes are not what the format promises, and nothing can be salvaged."""


class UnsupportedTraceError(PiscopeError):
    """The file is recognised, but this version of piscope does not read it."""


class UnanswerableError(PiscopeError):
    """The trace is readable, but it can't answer the question that was asked.

    The message names the record command that would have made it possible.
    """


class UsageError(PiscopeError):
    """The arguments contradict each other or name what does not exist."""
