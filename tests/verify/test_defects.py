"""A kernel with a defect, or a trace that was tampered with, is caught and named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piscope.cli import run
from piscope.commands import verify_run
from piscope.commands.opening import opened
from piscope.sources.raw import RawChunk, Wanted
from piscope.verify.account import Account

from .simulated import F1, F2, Desc, Host


class LosesSn(Host):
    """pi_load on another pCPU forgets to clear SN."""

    def load(self, d: Desc, cpu: int) -> None:
        moved, sn = d.cpu not in (cpu, -1), d.sn
        before = len(self.rows)
        super().load(d, cpu)
        if moved and sn:
            d.sn = 1
            self._reread(before, d)

    def _reread(self, first: int, d: Desc) -> None:
        """The last probe reads the descriptor once more."""
        ts_ns, cpu, tid, key, fields = self.rows[-1]
        word = np.uint64(d.on | d.sn << 1 | d.nv << 16 | d.ndst << 32)
        words = {
            f"pir{i}": np.uint64(d.pir >> 64 * i & (1 << 64) - 1) for i in range(4)
        }
        self.rows[-1] = (ts_ns, cpu, tid, key, {**fields, "ctl": word, **words})
        assert len(self.rows) > first


class KeepsNdst(LosesSn):
    """pi_load on another pCPU leaves NDST at the old one, once in three."""

    def load(self, d: Desc, cpu: int) -> None:
        ndst, moved = d.ndst, d.cpu not in (cpu, -1)
        first = len(self.rows)
        Host.load(self, d, cpu)
        if moved and self.random.random() < 0.33:
            d.ndst = ndst
            self._reread(first, d)


class ForgetsPir(LosesSn):
    """A vector that was posted while the vCPU was away is gone when it comes back."""

    def load(self, d: Desc, cpu: int) -> None:
        first = len(self.rows)
        Host.load(self, d, cpu)
        if d.pir and self.random.random() < 0.2:
            d.pir &= d.pir - 1
            self._reread(first, d)


class NotifiesUnderSn(Host):
    """Hardware that ignores SN."""

    def post_hw(self, d: Desc, vector: int) -> None:
        d.pir |= 1 << vector
        d.on = 1


class LeavesF2(Host):
    """pi_put sets neither SN nor the wakeup vector for a vCPU that blocks with IF=1."""

    def _put(self, d: Desc, preempted: bool, blocking: bool, if_: bool) -> None:
        if blocking and if_ and not preempted:
            return
        super()._put(d, preempted, blocking, if_)


class DropsKvmPosts(Host):
    """KVM says that it posted, and PIR does not have it."""

    def post_kvm(self, d: Desc, vector: int) -> None:
        pir, on = d.pir, d.on
        super().post_kvm(d, vector)
        if self.random.random() < 0.3:
            d.pir, d.on = pir, on


@pytest.mark.parametrize(
    ("kernel", "fields", "kind"),
    [
        (LosesSn, {"SN"}, "load, another pCPU"),
        (KeepsNdst, {"NDST"}, "load, another pCPU"),
        (ForgetsPir, {"PIR"}, "load"),
        (NotifiesUnderSn, {"ON"}, "while unloaded"),
        (LeavesF2, {"SN", "NV"}, "put, blocking"),
        (DropsKvmPosts, {"PIR"}, "while unloaded"),
    ],
)
def test_a_defect_is_caught_and_named(
    verify: Any, kernel: type[Host], fields: set[str], kind: str
) -> None:
    account = verify(kernel("6.17", seed=3).run(150).source())
    assert account.status == 1, account.verdict
    assert account.policy == "suppress-on-put"
    assert any(
        set(g.fields) & fields and g.kind.startswith(kind) for g in account.groups
    ), account.groups
    assert account.groups[0].transitions > 1


class Tampered:
    """A source in which one probe's reading was changed, by its place in the file."""

    def __init__(self, source: Any, event: str, at: int, change: int) -> None:
        self._source, self._event, self._at, self._change = source, event, at, change
        self.changed_ns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        seen = 0
        for chunk in self._source.chunks(wanted):
            for index, payload in chunk.payload.items():
                if self._source.events[index][1] != self._event:
                    continue
                here = self._at - seen
                seen += len(payload.rows)
                if 0 <= here < len(payload.rows):
                    payload.columns["ctl"][here] ^= np.uint64(self._change)
                    self.changed_ns = int(chunk.ts_ns[payload.rows[here]])
            yield chunk


Tamper = Callable[..., tuple[Account, int]]


@pytest.fixture
def tampered(monkeypatch: pytest.MonkeyPatch, samples: Path) -> Tamper:
    """The account of a sample with one bit changed, and the instant of that reading."""

    def of(sample: str, event: str, at: int, change: int) -> tuple[Account, int]:
        sources = []

        @contextmanager
        def changed(path: str) -> Iterator[Any]:
            with opened(path) as source:
                sources.append(Tampered(source, event, at, change))
                yield sources[-1]

        monkeypatch.setattr(verify_run, "opened", changed)
        account = verify_run.verified(str(samples / sample), verify_run.Request())
        return account, sources[0].changed_ns

    return of


OLD, NEW = "vmx-6.12.117-ipiv.f_2vm.trace.dat", "vmx-6.17.13-ipiv.f_2vm.trace.dat"
SN, NV, NDST = 1 << 1, (F1 ^ F2) << 16, 1 << 40


@pytest.mark.parametrize("at", [100, 333, 555])
@pytest.mark.parametrize(
    ("sample", "event"),
    [
        (OLD, "pi_put_done_0x3e"),
        (OLD, "pi_load"),
        (NEW, "pi_put_done_0x198"),
        (NEW, "pi_load_done_0x44"),
    ],
)
@pytest.mark.parametrize(("name", "change"), [("SN", SN), ("NV", NV), ("NDST", NDST)])
def test_one_changed_control_word_is_caught(
    tampered: Tamper, sample: str, event: str, at: int, name: str, change: int
) -> None:
    account, changed_ns = tampered(sample, event, at, change)
    assert account.status == 1
    assert 1 <= account.disagreements <= 2  # from the reading before, and to the next
    near = [d for d in account.listed if changed_ns in (d.before.ts_ns, d.after.ts_ns)]
    assert len(near) == account.disagreements
    assert any(name in d.fields for d in near)
    marked = [e.mark for d in near for e in d.events if e.ts_ns == changed_ns]
    assert set(marked) <= {"before", "after"}
    assert marked


def test_on_that_fell_while_unloaded_is_caught(tampered: Tamper, samples: Path) -> None:
    sample = "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat"
    events = verify_run.verified(str(samples / sample), verify_run.Request())
    assert events.status == 0
    with opened(str(samples / sample)) as source:
        (words,) = [
            chunk.payload[index].columns["ctl"]
            for chunk in source.chunks(Wanted({"pi_load": None}))
            for index in chunk.payload
        ]
    at = int(np.flatnonzero(words & np.uint64(1))[3])
    account, _ = tampered(sample, "pi_load", at, 1)
    assert account.status == 1
    assert any("ON" in d.fields for d in account.listed)


def test_the_account_names_it(
    tampered: Tamper, samples: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, changed_ns = tampered(NEW, "pi_put_done_0x198", 400, SN)
    capfd.readouterr()
    assert run(["verify", str(samples / NEW)]) == 1
    out = capfd.readouterr().out
    seconds = f"{changed_ns // 10**9}.{changed_ns % 10**9:09}"
    assert re.search(rf"^{re.escape(seconds)} \S+, pCPU \d: ", out, re.MULTILINE)
    assert re.search(r"^  differs +SN", out, re.MULTILINE)
    assert f"* {seconds}" in out
    assert max(map(len, out.splitlines())) <= 80
