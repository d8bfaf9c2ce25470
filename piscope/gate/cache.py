"""Results of earlier runs, by what they depend on.

    DIRECTORY/ab/abcdef....json     the numbers of one trace

The name is a digest of the trace's bytes, the options, and piscope itself: its
version, and its source, so that a checkout that is worked on never meets the results
of yesterday's code. Nothing is ever out of date, and everything may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from functools import cache as once
from pathlib import Path

import piscope
from piscope.errors import PiscopeError
from piscope.gate.measured import Measured, Options, as_plain, from_plain
from piscope.output import replacing

__all__ = ("Cache", "default_directory")

_FORMAT = 1  # of an entry
_MOST_BYTES = 16 << 20  # an entry has some kilobytes


def default_directory() -> Path:
    """`$XDG_CACHE_HOME/piscope/gate`, or below `~/.cache`.

    Source: XDG Base Directory Specification, "Environment variables": a path that is
    not absolute is to be ignored.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path("~/.cache").expanduser()
    return base / "piscope" / "gate"


class Cache:
    """A directory of results; several processes may use it at once."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)

    def find(self, sha256: str, options: Options) -> Measured | None:
        """What an earlier run found; None where none did, or its entry is damaged."""
        path = self._path(sha256, options)
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES)
            measured = from_plain(json.loads(text))
        except (OSError, ValueError, RecursionError):
            return None
        return measured if measured.sha256 == sha256 else None

    def keep(self, measured: Measured, options: Options) -> None:
        """Remember; a cache that can't be written to costs time, and nothing else."""
        path = self._path(measured.sha256, options)
        text = json.dumps(as_plain(replace(measured, cached=False)), allow_nan=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(text.encode())
        except (OSError, PiscopeError):
            return

    def _path(self, sha256: str, options: Options) -> Path:
        parts = [_FORMAT, sha256, asdict(options), piscope.__version__, _source()]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self._directory / key[:2] / f"{key}.json"


@once
def _source() -> str:
    """A digest of every module of piscope."""
    top = Path(piscope.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(top.rglob("*.py")):
        digest.update(f"{path.relative_to(top)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
