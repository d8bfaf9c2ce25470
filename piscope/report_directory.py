"""Every table of an analysis as Parquet in one directory: whole, or not at all.

    DIR/manifest.json     what there is: file, rows, columns, units, meanings, joins
    DIR/summary.json      docs/json.md
    DIR/EVENTS.parquet    one file a table of `schema`
    ...

Of several traces it is a dataset, partitioned by trace as Hive does it:

    DIR/manifest.json
    DIR/EVENTS/trace=NAME/EVENTS.parquet
    DIR/summary/trace=NAME.json

It is written under a temporary name beside DIR and renamed when it is complete.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
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

__all__ = ("MANIFEST", "write_dataset", "write_report")

MANIFEST = "manifest.json"
"""A directory that has this file, of ours, is a report and may be replaced."""

_FORMAT = "piscope-report"
_FORMAT_VERSION = 1
_MOST_MANIFEST_BYTES = 1 << 24
_ROWS_IN_A_GROUP = 1 << 18


def write_report(
    analysis: Analysis,
    summary: Summary,
    directory: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    events: bool = True,
) -> None:
    """Write the report of one trace; an older report of that name is replaced.

    `options` are what the user asked for, for the manifest. Without `events` the table
    EVENTS is left out.

    Raises UsageError, naming the path, when it is there and neither an empty directory
    nor a report of piscope, or when it can't be written.
    """
    final = Path(directory)
    try:
        _refuse(final)
        with _replacing(final.resolve()) as folder:
            files = _write_tables(
                analysis, lambda name: folder / f"{name}.parquet", folder, events
            )
            _write_json(folder / "summary.json", as_json(summary))
            manifest = {
                **_head(options),
                **_trace(summary),
                "summary": "summary.json",
                "tables": files,
            }
            _write_json(folder / MANIFEST, manifest)
    except OSError as e:
        raise UsageError(f"can't be written: {e.strerror or e}", path=final) from e


def write_dataset(
    parts: Iterable[tuple[Analysis, Summary]],
    directory: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    events: bool = True,
) -> None:
    """Write several traces' reports as one dataset; the rest is as for `write_report`.

    The parts are taken one after another, and each is let go before the next one. A
    trace's name is its file's, without what no folder can be called, and with a number
    behind it where two are the same.
    """
    final = Path(directory)
    traces: list[dict[str, Any]] = []
    try:
        _refuse(final)
        with _replacing(final.resolve()) as folder:
            (folder / "summary").mkdir()
            for analysis, summary in parts:
                part = _part(summary.trace.path, {t["name"] for t in traces})

                def place(name: str, part: str = part) -> Path:
                    inside = folder / name / f"trace={part}"
                    inside.mkdir(parents=True)
                    return inside / f"{name}.parquet"

                files = _write_tables(analysis, place, folder, events)
                told = f"summary/trace={part}.json"
                _write_json(folder / told, as_json(summary))
                rows = {file["name"]: file["rows"] for file in files}
                traces.append(
                    {"name": part, **_trace(summary), "summary": told, "rows": rows}
                )
                del analysis
            tables = [asdict(t) for n, t in TABLES.items() if events or n != "EVENTS"]
            _write_json(
                folder / MANIFEST,
                {**_head(options), "traces": traces, "tables": tables},
            )
    except OSError as e:
        raise UsageError(f"can't be written: {e.strerror or e}", path=final) from e


def _part(path: str, taken: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", Path(path).name)[:120] or "trace"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def _head(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "piscope_version": __version__,
        "options": dict(options or {}),
    }


def _trace(summary: Summary) -> dict[str, Any]:
    return {
        "trace": asdict(summary.trace),
        "sha256": _sha256(summary.trace.path),
        "policies": list(summary.policies),
    }


def _sha256(path: str) -> str | None:
    """The trace file's own; None where it is no file that can be read again."""
    try:
        if not Path(path).is_file():
            return None
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


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
        if final.exists():
            _exchange(made, final)
            shutil.rmtree(made, ignore_errors=True)
        else:
            made.rename(final)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h; linux/fs.h


def _exchange(made: Path, final: Path) -> None:
    """Each takes the other's name: at once where the file system can.

    Where it can't, a run that is killed between the two renames leaves the old report
    under the temporary name with `.old`.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28
    names = [os.fsencode(path) for path in (made, final)]
    if (
        renameat2 is not None
        and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    ):
        return
    # A directory that is not empty can't be renamed over: the old one steps aside.
    aside = made.with_suffix(".old")
    final.rename(aside)
    try:
        made.rename(final)
    except BaseException:
        aside.rename(final)
        raise
    aside.rename(made)


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _write_tables(
    analysis: Analysis,
    place: Callable[[str], Path],
    folder: Path,
    events: bool,
) -> list[dict[str, Any]]:
    files = []
    for name, declared in TABLES.items():
        if name == "EVENTS" and not events:
            continue
        pieces = (
            event_tables(analysis.events)
            if name == "EVENTS"
            else iter([arrow_table(analysis, name)])
        )
        path = place(name)
        rows = _write_parquet(path, pieces, arrow_schema(declared))
        file = path.relative_to(folder).as_posix()
        files.append({"file": file, "rows": rows, **asdict(declared)})
    return files


def _write_parquet(path: Path, pieces: Iterator[pa.Table], shape: pa.Schema) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(
        path, shape, compression="zstd", compression_level=3
    ) as writer:
        for piece in pieces:
            rows += piece.num_rows
            writer.write_table(piece, row_group_size=_ROWS_IN_A_GROUP)
    return rows


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", "utf-8")
