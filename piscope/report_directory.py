"""Every table of an analysis as Parquet in one directory: whole, or not at all.

    DIR/manifest.json     what there is: file, rows, columns, units, meanings, joins
    DIR/summary.json      docs/json.md
    DIR/EVENTS.parquet    one file a table of `schema`
    ...

It is written under a temporary name beside DIR and renamed when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piscope import __version__
from piscope.arrow_tables import arrow_table, event_tables
from piscope.errors import UsageError
from piscope.pipeline import Analysis
from piscope.report.json_form import as_json
from piscope.report.summary import Summary
from piscope.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ("MANIFEST", "write_report")

MANIFEST = "manifest.json"
"""A directory that has this file, of ours, is a report and may be replaced."""

_FORMAT = "piscope-report"
_FORMAT_VERSION = 1
_MOST_MANIFEST_BYTES = 1 << 20


def write_report(
    analysis: Analysis, summary: Summary, directory: str | os.PathLike[str]
) -> None:
    """Write the report; an older report of that name is replaced.

    Raises UsageError, naming the path, when it is there and neither an empty directory
    nor a report of piscope, or when it can't be written.
    """
    final = Path(directory)
    try:
        _refuse(final)
        with _replacing(final.resolve()) as folder:
            _write(analysis, summary, folder)
    except OSError as e:
        raise UsageError(f"can't be written: {e.strerror or e}", path=final) from e


def _refuse(final: Path) -> None:
    if not os.path.lexists(final) or _is_report(final):
        return
    if not final.is_dir():
        raise UsageError("is a file, expected a directory to write", path=final)
    if any(final.iterdir()):
        raise UsageError(
            f"holds other files than a report ({MANIFEST}): give a new name", path=final
        )


def _is_report(folder: Path) -> bool:
    manifest = folder / MANIFEST
    try:
        if manifest.stat().st_size > _MOST_MANIFEST_BYTES:
            return False
        value = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("format") == _FORMAT


@contextmanager
def _replacing(final: Path) -> Iterator[Path]:
    """A new folder that takes the place of `final` when the block ends well."""
    made = Path(
        tempfile.mkdtemp(
            prefix=f".{final.name[:64]}.", suffix=".part", dir=final.parent
        )
    )
    try:
        yield made
        made.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        # A directory that is not empty can't be renamed over: the old one steps aside.
        aside = made.with_suffix(".old")
        if final.exists():
            final.rename(aside)
        try:
            made.rename(final)
        except BaseException:
            if aside.exists():
                aside.rename(final)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _write(analysis: Analysis, summary: Summary, folder: Path) -> None:
    files = []
    for name, declared in TABLES.items():
        pieces = (
            event_tables(analysis.events)
            if name == "EVENTS"
            else iter([arrow_table(analysis, name)])
        )
        path = folder / f"{name}.parquet"
        rows = _write_parquet(path, pieces, arrow_schema(declared))
        files.append({"file": path.name, "rows": rows, **asdict(declared)})
    manifest = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "piscope_version": __version__,
        "trace": asdict(summary.trace),
        "summary": "summary.json",
        "tables": files,
    }
    _write_json(folder / "summary.json", as_json(summary))
    _write_json(folder / MANIFEST, manifest)


def _write_parquet(path: Path, pieces: Iterator[pa.Table], shape: pa.Schema) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(
        path, shape, compression="zstd", compression_level=3
    ) as writer:
        for piece in pieces:
            rows += piece.num_rows
            writer.write_table(piece)
    return rows


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", "utf-8")
