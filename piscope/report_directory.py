"""Every table of an analysis as Parquet in one directory: whole, or not at all.

    DIR/manifest.json     what there is: file, rows, columns, units, meanings, joins
    DIR/summary.json      docs/json.md
    DIR/EVENTS.parquet    one file a table of `schema`
    ...

Of several traces it is a dataset, partitioned by trace as Hive does it:

    DIR/manifest.json
    DIR/EVENTS/trace=NAME/EVENTS.parquet
    DIR/summary/trace=NAME.json

It is written under a temporary name beside DIR and renamed when it is complete. A long
trace may come in parts, one after another; what is not written yet of them is at most
a group of rows a table.
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piscope import __version__
from piscope.errors import UsageError
from piscope.part_tables import PartTables
from piscope.pipeline import Analysis, Part
from piscope.report.json_form import as_json
from piscope.report.summary import Summary
from piscope.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ("MANIFEST", "write_dataset", "write_report")

MANIFEST = "manifest.json"
"""A directory that has this file, of ours, is a report and may be replaced."""

_FORMAT = "piscope-report"
_FORMAT_VERSION = 1
_MOST_MANIFEST_BYTES = 1 << 24
_ROWS_IN_A_GROUP = 1 << 18

Parts = Analysis | Iterable[Part]
"""A trace that was analyzed at once, or in parts."""

Told = Summary | Callable[[], Summary]
"""Its summary, or what gives it when all parts have been taken."""


def write_report(
    parts: Parts,
    summary: Told,
    directory: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    events: bool = True,
) -> None:
    """Write the report of one trace; an older report of that name is replaced.

    Of a trace in parts each is taken, written and let go before the next one, and
    `summary` is called behind the last. `options` are what the user asked for, for the
    manifest. Without `events` the table EVENTS is left out.

    Raises UsageError, naming the path, when it is there and neither an empty directory
    nor a report of piscope, or when it can't be written.
    """
    final = Path(directory)
    try:
        _refuse(final)
        with _replacing(final.resolve()) as folder:
            rows = _write_tables(parts, folder, events)
            told = _told(summary)
            _write_json(folder / "summary.json", as_json(told))
            manifest = {
                **_head(options),
                **_trace(told),
                "summary": "summary.json",
                "tables": [
                    {"file": _file(name), "rows": n, **asdict(TABLES[name])}
                    for name, n in rows.items()
                ],
            }
            _write_json(folder / MANIFEST, manifest)
    except OSError as e:
        raise UsageError(f"can't be written: {e.strerror or e}", path=final) from e


def write_dataset(
    traces: Iterable[tuple[Parts, Told]],
    directory: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    events: bool = True,
) -> None:
    """Write several traces' reports as one dataset; the rest is as for `write_report`.

    The traces are taken one after another, and each is let go before the next one. A
    trace's name is its file's, without what no folder can be called, and with a number
    behind it where two are the same.
    """
    final = Path(directory)
    written: list[dict[str, Any]] = []
    try:
        _refuse(final)
        with _replacing(final.resolve()) as folder:
            (folder / "summary").mkdir()
            for parts, summary in traces:
                rows = _write_tables(parts, folder, events)
                del parts
                told = _told(summary)
                name = _name(told.trace.path, {t["name"] for t in written})
                for table in rows:
                    inside = folder / table / f"trace={name}"
                    inside.mkdir(parents=True)
                    (folder / _file(table)).rename(inside / _file(table))
                place = f"summary/trace={name}.json"
                _write_json(folder / place, as_json(told))
                written.append(
                    {"name": name, **_trace(told), "summary": place, "rows": rows}
                )
            tables = [asdict(t) for n, t in TABLES.items() if events or n != "EVENTS"]
            _write_json(
                folder / MANIFEST,
                {**_head(options), "traces": written, "tables": tables},
            )
    except OSError as e:
        raise UsageError(f"can't be written: {e.strerror or e}", path=final) from e


def _told(summary: Told) -> Summary:
    return summary if isinstance(summary, Summary) else summary()


def _file(table: str) -> str:
    return f"{table}.parquet"


def _name(path: str, taken: set[str]) -> str:
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


def _write_tables(parts: Parts, folder: Path, events: bool) -> dict[str, int]:
    """Write FOLDER/TABLE.parquet; the rows of each table that was written."""
    names = [name for name in TABLES if events or name != "EVENTS"]
    tables = PartTables()
    each = [Part.of_whole(parts)] if isinstance(parts, Analysis) else parts
    del parts
    with ExitStack() as open_files:
        files = {
            name: open_files.enter_context(_Rows(folder / _file(name), name))
            for name in names
        }
        for part in each:
            for name, table in tables.tables_of(part, names):
                files[name].add(table)
                del table
            del part
    return {name: file.rows for name, file in files.items()}


class _Rows:
    """A Parquet file to which tables are added, in groups of rows of a fair size."""

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow.parquet as pq

        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._file: pq.ParquetWriter = pq.ParquetWriter(
            path,
            arrow_schema(TABLES[name]),
            compression="zstd",
            compression_level=3,
        )

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self._write()
        finally:
            self._file.close()

    def add(self, table: pa.Table) -> None:
        """Write it, or keep it until there are rows enough for a group."""
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        self.rows += table.num_rows
        if self._waiting_rows >= _ROWS_IN_A_GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not waiting:
            return
        table = waiting[0]
        if len(waiting) > 1:  # each part has its own dictionaries
            table = pa.concat_tables(waiting).unify_dictionaries()
        self._file.write_table(table, row_group_size=_ROWS_IN_A_GROUP)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", "utf-8")
