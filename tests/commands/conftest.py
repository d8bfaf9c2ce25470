"""Commands run in this process, over a trace of rows instead of a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from fake_source import FakeSource


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeSource]:
    """Name -> source: what `piscope COMMAND NAME` opens."""
    sources: dict[str, FakeSource] = {}

    def open_trace(path: str) -> FakeSource:
        return sources[path]

    monkeypatch.setitem(
        sys.modules, "piscope.sources.detect", SimpleNamespace(open_trace=open_trace)
    )
    return sources


@pytest.fixture
def piscope(
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; gives exit status, stdout and stderr."""
    from piscope.cli import run

    def command(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run(arguments)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return status, out, err

    return command
