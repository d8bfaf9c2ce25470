"""Which traces an argument means, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from piscope.corpus import Trace, find_traces, local_file
from piscope.errors import PiscopeError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.trace.dat", "sub/b.perf.data", "sub/c.ftrace.txt.gz", "notes.txt"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "corpus"


def _names(*arguments: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return [trace.name for trace in find_traces(arguments, exclude).traces]


def test_a_directory_is_its_traces_by_path_below_it(folder: Path) -> None:
    corpus = find_traces([str(folder)])
    assert [t.name for t in corpus.traces] == [
        "a.trace.dat",
        "sub/b.perf.data",
        "sub/c.ftrace.txt.gz",
    ]
    assert corpus.skipped == 1  # notes.txt is said, not lost


def test_names_do_not_depend_on_where_a_corpus_lies(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert _names("corpus") == _names("./corpus/") == _names(str(folder))
    assert _names("corpus/sub/*") == _names(f"{folder}/sub/*")


def test_a_glob_takes_any_name_below_its_fixed_part(folder: Path) -> None:
    assert _names(f"{folder}/*.txt") == ["notes.txt"]
    assert _names(f"{folder}/**/*.data") == ["sub/b.perf.data"]


def test_a_list_has_any_argument_a_line(folder: Path) -> None:
    (folder / "list").write_text(
        "# comment\n\na.trace.dat\nnight=sub/b.perf.data\nsub/*.gz\n"
    )
    corpus = find_traces([f"@{folder / 'list'}"])
    assert corpus.traces == (
        Trace("a.trace.dat", str(folder / "a.trace.dat")),
        Trace("c.ftrace.txt.gz", str(folder / "sub/c.ftrace.txt.gz")),
        Trace("night", str(folder / "sub/b.perf.data")),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n@other\n", r"list, line 2: a list within a list"),
        ("a.dat\nb\0.dat\n", r"list, line 2: no path has a NUL"),
        ("\xff*.dat\n", "no trace in"),
        ("# nothing\n", "no trace in"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(folder: Path, text: str, said: str) -> None:
    (folder / "list").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=said):
        find_traces([f"@{folder / 'list'}"])


def test_two_traces_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="two traces are called 'x'"):
        find_traces(["x=/a", "x=/b"])
    assert _names("x=/a", "x=/a") == ["x"]


@pytest.mark.parametrize("argument", ["{0}/empty", "{0}/*.nothing", "@{0}/nolist"])
def test_nothing_found_is_an_error(folder: Path, argument: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UsageError):
        find_traces([argument.format(folder)])


def test_excluded_traces_are_counted(folder: Path) -> None:
    corpus = find_traces([str(folder)], exclude=["sub/*"])
    assert ([t.name for t in corpus.traces], corpus.excluded) == (["a.trace.dat"], 2)


def test_a_file_that_is_not_there_is_left_to_whoever_opens_it() -> None:
    assert _names("/no/such.dat") == ["such.dat"]


def test_file_urls_are_listed_like_directories(folder: Path) -> None:
    corpus = find_traces([f"file://{folder}"])
    assert [t.name for t in corpus.traces] == _names(str(folder))
    assert corpus.skipped == 1
    assert _names(f"file://{folder}/sub/*.gz") == ["c.ftrace.txt.gz"]
    assert _names(f"file://{folder}/notes.txt") == ["notes.txt"]
    with local_file(corpus.traces[1].path) as path:
        assert Path(path).read_bytes() == b"sub/b.perf.data"
    assert not Path(path).exists()


def test_fsspec_urls_are_read_through_it() -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.pipe("/night/x/a.trace.dat", b"bytes")
    try:
        (trace,) = find_traces(["memory://night"]).traces
        assert trace.name == "x/a.trace.dat"
        with local_file(trace.path) as path:
            assert Path(path).read_bytes() == b"bytes"
    finally:
        system.rm("/night", recursive=True)


@pytest.mark.parametrize("url", ["file:///no/such/place", "nosuch://a/b.dat"])
def test_urls_that_lead_nowhere_are_named(url: str) -> None:
    with pytest.raises(PiscopeError, match=url.partition(":")[0]):
        find_traces([url])
