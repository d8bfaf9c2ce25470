"""Writers of events: a chunk at a time, to a terminal, a pipe or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePath
from typing import BinaryIO, Literal

from piscope.commands.event_text import json_lines, text_lines
from piscope.errors import UsageError
from piscope.sources.raw import RawChunk, Source

__all__ = ("FORMATS", "Format", "format_of", "writing")

Format = Literal["text", "jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("text", "jsonl", "csv", "parquet")

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}

_ROW_GROUP_ROWS = 1 << 18
# At most. Groups of 64k to 1M rows are equally small and quick; of 16k, 3% larger.

_LINES_AT_ONCE = 1 << 12


def format_of(path: str) -> Format:
    """The format that a file's name asks for.

    Raises UsageError for a suffix that no format has.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix not in _SUFFIXES:
        known = ", ".join(sorted(_SUFFIXES))
        raise UsageError(f"expected a name ending in {known}, or --format", path=path)
    return _SUFFIXES[suffix]


@contextmanager
def writing(
    file: BinaryIO, format_: Format, source: Source
) -> Iterator[Callable[[RawChunk], None]]:
    """A function that writes a chunk; the file is complete when the block ends well.

    Columns of CSV and Parquet are those of event_columns.event_schema; CSV begins
    with their names, and a null is an empty cell there.
    """
    if format_ == "text":
        yield lambda chunk: _write_lines(file, text_lines(chunk, source))
    elif format_ == "jsonl":
        yield lambda chunk: _write_lines(file, json_lines(chunk, source))
    elif format_ == "csv":
        yield from _csv_writer(file, source)
    else:
        yield from _parquet_writer(file, source)


def _write_lines(file: BinaryIO, lines: Iterator[str]) -> None:
    while part := list(islice(lines, _LINES_AT_ONCE)):
        # A comm may hold lone surrogates; a writer must not fail for them.
        file.write(("\n".join(part) + "\n").encode("utf-8", "replace"))


def _csv_writer(file: BinaryIO, source: Source) -> Iterator[Callable[[RawChunk], None]]:
    import pyarrow.csv as pa_csv

    from piscope.commands.event_columns import event_schema, event_table

    schema = event_schema(source.info)
    with pa_csv.CSVWriter(file, schema) as writer:
        yield lambda chunk: writer.write_table(event_table(chunk, source, schema))


def _parquet_writer(
    file: BinaryIO, source: Source
) -> Iterator[Callable[[RawChunk], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from piscope.commands.event_columns import TYPED_FIELDS, event_schema, event_table

    schema = event_schema(source.info)
    pending: list[pa.Table] = []
    # Times of consecutive events are close: as differences they take a third of the
    # space, but pyarrow lets a column have an encoding or a dictionary, not both.
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["cpu", "tid", "comm", "system", "event", *TYPED_FIELDS],
        column_encoding={
            "ts_ns": "DELTA_BINARY_PACKED",
            "seq": "DELTA_BINARY_PACKED",
        },
    ) as writer:

        def flush() -> None:
            if pending:
                writer.write_table(pa.concat_tables(pending), _ROW_GROUP_ROWS)
                pending.clear()

        def write(chunk: RawChunk) -> None:
            pending.append(event_table(chunk, source, schema))
            if sum(map(len, pending)) >= _ROW_GROUP_ROWS // 2:
                flush()

        yield write
        flush()
