"""Many traces: which ones an argument means, and each of them as a local file.

An argument is a trace, `NAME=PATH`, a directory (of traces, or a report of one), a
glob, a list (`@FILE`, one argument a line, `#` for comments), or the URL of a
directory, glob or trace. Object storage is read through pyarrow's file systems
(`s3://`, `gs://`, `hdfs://`, `file://`), and through fsspec, where that is installed,
for other schemes.

A trace's name is what results are compared by, so it doesn't depend on where a corpus
lies: the path below its directory, or below the part of a glob without wildcards.

A URL may end in options of its file system, as pyarrow writes them:
`s3://bucket/night?region=eu-west-1`. So a `?` followed by `name=` is no wildcard there.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from piscope.errors import PiscopeError, UsageError

__all__ = (
    "REPORT_NAME",
    "TRACE_NAMES",
    "Corpus",
    "Trace",
    "find_traces",
    "is_url",
    "local_file",
)

TRACE_NAMES = tuple(
    pattern + packed
    for pattern in ("*.dat", "*.data", "*.ftrace", "*.trace", "*.ftrace.txt")
    for packed in ("", ".gz", ".xz", ".zst")
)
"""The files of a directory that are traces; a glob or a list takes any name."""

REPORT_NAME = "summary.json"
"""The file of a directory of `piscope report` that stands for its trace."""

MOST_TRACES = 1_000_000
_MOST_LIST_BYTES = 256 << 20
_COPY_BYTES = 1 << 20
_WILDCARDS = "*?["


@dataclass(frozen=True, slots=True)
class Trace:
    """One trace of a corpus.

    name  what results are compared by; unique in its corpus
    path  a local path, or a URL
    """

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The traces that some arguments mean.

    traces    by name
    skipped   files of directories whose name is none of a trace
    excluded  traces that a pattern left out
    """

    traces: tuple[Trace, ...]
    skipped: int = 0
    excluded: int = 0


def is_url(path: str) -> bool:
    """Whether it has a scheme: `s3://bucket/a.dat`, not `a.dat`."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum()


def find_traces(arguments: Sequence[str], exclude: Sequence[str] = ()) -> Corpus:
    """Every trace that the arguments mean, without names that `exclude` matches.

    Whether a file can be read is not looked at: that is for whoever analyzes it. The
    same file twice under one name is one trace.

    Raises UsageError for a directory, glob or list that can't be read, an argument
    without any trace, and two traces of one name.
    """
    found: dict[str, Trace] = {}
    skipped = excluded = 0
    for argument in arguments:
        traces, others = _expanded(argument)
        skipped += others
        for trace in traces:
            if any(fnmatch.fnmatchcase(trace.name, pattern) for pattern in exclude):
                excluded += 1
                continue
            known = found.setdefault(trace.name, trace)
            if known.path != trace.path:
                raise UsageError(
                    f"two traces are called {trace.name!r}, {known.path} and"
                    f" {trace.path}: give one as NAME=PATH"
                )
            if len(found) > MOST_TRACES:
                raise UsageError(f"more than {MOST_TRACES:,} traces in one corpus")
    if not found:
        raise UsageError(
            f"no trace in {', '.join(arguments) or 'an empty corpus'}"
            f" ({skipped} other files, {excluded} excluded)"
        )
    return Corpus(tuple(found[name] for name in sorted(found)), skipped, excluded)


def _expanded(argument: str, within: Path | None = None) -> tuple[list[Trace], int]:
    if within is None and argument.startswith("@"):
        return _listed(Path(argument[1:]))
    name, separator, path = argument.partition("=")
    if separator and name and "/" not in name and not Path(argument).exists():
        return [Trace(_text(name), _below(path, within))], 0
    if is_url(argument):
        return _remote(argument)
    path = _below(argument, within)
    if Path(path).is_dir():
        return _directory(Path(path))
    if any(c in argument for c in _WILDCARDS) and not Path(path).exists():
        return _globbed(path)
    return [Trace(_text(argument if within else Path(path).name), path)], 0


def _below(path: str, within: Path | None) -> str:
    return path if within is None or is_url(path) else str(within / path)


def _text(name: str) -> str:
    # A name goes into TOML, JSON and XML; bytes that are no UTF-8 would not.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _directory(top: Path) -> tuple[list[Trace], int]:
    traces, skipped = [], 0

    def refuse(error: OSError) -> None:
        raise UsageError(f"can't be listed: {error.strerror}", path=error.filename)

    for folder, folders, files in os.walk(top, onerror=refuse):
        if {REPORT_NAME, "manifest.json"} <= set(files):
            folders.clear()
            name = Path(folder).relative_to(top).as_posix()
            name = top.resolve().name if name == "." else name
            traces.append(Trace(_text(name), str(Path(folder, REPORT_NAME))))
            continue
        for file in files:
            path = Path(folder, file)
            if not _is_trace_name(file):
                skipped += 1
                continue
            traces.append(Trace(_text(path.relative_to(top).as_posix()), str(path)))
    return traces, skipped


def _is_trace_name(file: str) -> bool:
    return not file.startswith(".") and any(
        fnmatch.fnmatchcase(file, pattern) for pattern in TRACE_NAMES
    )


def _globbed(pattern: str) -> tuple[list[Trace], int]:
    top = _fixed_part(pattern)
    # A pattern may be absolute, which Path.glob refuses.
    matches = glob.iglob(pattern, recursive=True)  # noqa: PTH207
    paths = [p for p in matches if Path(p).is_file()]
    return [Trace(_text(os.path.relpath(p, top or ".")), p) for p in paths], 0


def _fixed_part(pattern: str) -> str:
    """The folders of a glob before the first that has a wildcard."""
    parts = PurePosixPath(pattern).parts[:-1]
    fixed: list[str] = []
    for part in parts:
        if any(c in part for c in _WILDCARDS):
            break
        fixed.append(part)
    return str(PurePosixPath(*fixed)) if fixed else ""


def _listed(path: Path) -> tuple[list[Trace], int]:
    try:
        if path.stat().st_size > _MOST_LIST_BYTES:
            raise UsageError("too long for a list of traces", path=path)
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", path=path) from None
    traces: list[Trace] = []
    skipped = 0
    for number, line in enumerate(lines, 1):
        argument = line.strip()
        if not argument or argument.startswith("#"):
            continue
        if argument.startswith("@"):
            raise UsageError("a list within a list", path=path, line=number)
        if "\0" in argument:
            raise UsageError("no path has a NUL", path=path, line=number)
        more, others = _expanded(argument, path.parent)
        traces += more
        skipped += others
    return traces, skipped


def _remote(url: str) -> tuple[list[Trace], int]:
    """A directory or a glob of a remote file system, or one file of it."""
    from pyarrow import fs

    address, options = _url_options(url)
    pattern = any(c in address for c in _WILDCARDS)
    scheme, _, rest = address.partition("://")
    top = f"{scheme}://{_fixed_part(rest) if pattern else rest}"
    system, root = _file_system(top + options)
    try:
        info = system.get_file_info(root)
        if info.type == fs.FileType.File:
            return [Trace(PurePosixPath(root).name, url)], 0
        if info.type == fs.FileType.NotFound:
            raise UsageError("does not exist", path=url)
        below = system.get_file_info(fs.FileSelector(root, recursive=True))
    except OSError as error:
        raise UsageError(f"can't be listed: {error}", path=url) from None
    traces, skipped = [], 0
    wanted = rest[len(_fixed_part(rest)) :].lstrip("/") if pattern else None
    for entry in below:
        if entry.type != fs.FileType.File:
            continue
        name = entry.path[len(root) :].lstrip("/")
        if wanted is not None:
            if fnmatch.fnmatchcase(name, wanted):
                traces.append(Trace(name, f"{top.rstrip('/')}/{name}{options}"))
        elif _is_trace_name(entry.base_name):
            traces.append(Trace(name, f"{top.rstrip('/')}/{name}{options}"))
        else:
            skipped += 1
    return traces, skipped


def _url_options(url: str) -> tuple[str, str]:
    """A URL without the options at its end, and these: `?region=eu-west-1`, or ``."""
    options = re.search(r"\?\w+=[^?]*$", url)
    return (url[: options.start()], options.group()) if options else (url, "")


def _file_system(url: str) -> tuple[Any, str]:
    """A pyarrow file system for a URL, and the path within it."""
    import pyarrow
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(url)
        return system, path
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        refusal = str(error)
    try:
        import fsspec

        other, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{refusal} (and {error})", path=url) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"can't be opened: {error}", path=url) from None
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path


@contextmanager
def local_file(path: str) -> Iterator[str]:
    """A path that can be opened: the same, or for a URL that of a temporary copy.

    Raises PiscopeError, naming the URL, when it can't be read or its copy would take
    more than half of the free space.
    """
    if not is_url(path):
        yield path
        return
    system, remote = _file_system(path)
    most_bytes = shutil.disk_usage(tempfile.gettempdir()).free // 2
    suffix = "".join(PurePosixPath(remote).suffixes[-2:])[-16:]
    with tempfile.NamedTemporaryFile(prefix="piscope-", suffix=suffix) as copy:
        done_bytes = 0
        try:
            with system.open_input_stream(remote, compression=None) as stream:
                while part := stream.read(_COPY_BYTES):
                    done_bytes += len(part)
                    if done_bytes > most_bytes:
                        break
                    copy.write(part)
        except OSError as error:
            raise PiscopeError(f"can't be read: {error}", path=path) from None
        if done_bytes > most_bytes:
            raise PiscopeError(
                f"its copy needs more than half of the free space of"
                f" {tempfile.gettempdir()}: set TMPDIR",
                path=path,
            )
        copy.flush()
        yield copy.name
