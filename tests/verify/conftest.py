"""Verifying what a source holds, as the command does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from piscope.commands import verify_run
from piscope.commands.verify_run import Request, verified
from piscope.verify.account import Account

Verify = Callable[..., Account]


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> Verify:
    """The account of a source that was never a file."""

    def of(source: Any, **request: Any) -> Account:
        @contextmanager
        def opened(path: str) -> Iterator[Any]:
            yield source

        monkeypatch.setattr(verify_run, "opened", opened)
        return verified("simulated", Request(**request))

    return of
