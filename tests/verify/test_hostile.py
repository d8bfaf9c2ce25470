"""Whatever a trace holds, there is an account: nothing raises, nothing is endless."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from fake_source import FakeSource
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.commands import verify_run
from piscope.commands.verify_run import Request, verified
from piscope.commands.verify_text import account_as_text
from piscope.sources.raw import Loss

from .simulated import Host

U64 = st.one_of(
    st.sampled_from([0, 2, 0xF20000, 0xF20002, 0xF10000, 0x100_00F2_0000]),
    st.integers(0, (1 << 64) - 1),
).map(np.uint64)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "ctl": U64,
        "vcpu": st.one_of(st.integers(-1, 3), st.integers(-(1 << 63), (1 << 63) - 1)),
        "vcpu_cpu": st.integers(-(1 << 40), 1 << 40),
        "preempted": st.integers(0, 255),
        "blocking": U64,
        "pir0": U64,
        "pir1": U64,
        "pir2": U64,
        "pir3": U64,
    },
)
PROBES = st.sampled_from(
    ["pi:pi_load", "pi:pi_load_done_1", "pi:pi_put", "pi:pi_put_return", "pi:sync_pir"]
)
KVM = st.tuples(
    st.sampled_from(["kvm:kvm_apicv_accept_irq", "kvm:kvm_apic_accept_irq"]),
    st.fixed_dictionaries(
        {
            "apicid": st.integers(0, 3),
            "vec": st.integers(0, 255),
            "dm": st.just(0),
            "tm": st.just(0),
        }
    ),
)
ENTRY = st.tuples(
    st.sampled_from(["kvm:kvm_entry", "kvm:kvm_exit"]),
    st.fixed_dictionaries({"vcpu_id": st.integers(0, 3)}),
)
EVENT = st.one_of(st.tuples(PROBES, FIELDS), st.tuples(PROBES, FIELDS), KVM, ENTRY)
ROW = st.tuples(
    st.integers(0, 3), st.sampled_from([0, 1, 70000]), st.integers(0, 4), EVENT
)


def _account(source: Any) -> Any:
    @contextmanager
    def opened(path: str) -> Any:
        yield source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_run, "opened", opened)
        return verified("hostile", Request())


@settings(max_examples=60)
@given(st.lists(ROW, min_size=1, max_size=30))
def test_any_readings_give_an_account(rows: list[Any]) -> None:
    now_ns, made = 0, []
    for later_ns, cpu, tid, (key, fields) in rows:
        now_ns += later_ns
        made.append((now_ns, cpu, tid, key, fields))
    account = _account(FakeSource(made))
    assert account.status in (0, 1, 3)
    assert account.disagreements == sum(g.transitions for g in account.groups)
    json.dumps(account.as_dict(), allow_nan=False)
    assert max(map(len, account_as_text(account).splitlines())) <= 80


def test_nothing_is_compared_across_a_loss() -> None:
    host = Host("6.17").run(60)
    whole = _account(host.source())
    begin_ns = host.rows[len(host.rows) // 2][0]
    loss = Loss("missed-events", None, begin_ns, begin_ns + 20_000, 9)
    lossy = _account(FakeSource(host.rows, losses=[loss]))
    assert lossy.cuts["lost events"] > 0
    assert lossy.transitions < whole.transitions
    assert lossy.disagreements == 0
    assert any("not compared across" in remark for remark in lossy.remarks)


def test_a_missing_hit_cuts_the_chain_and_is_counted() -> None:
    host = Host("6.12").run(60)
    kept = [row for i, row in enumerate(host.rows) if i % 37]
    account = _account(FakeSource(kept))
    assert account.cuts["missing hit"] > 0
    assert account.disagreements == 0


def test_an_event_that_was_lost_is_not_the_kernel_s_fault() -> None:
    # the same, where the trace says so: a put and the load behind it are gone
    host = Host("6.12").run(60)
    middle = len(host.rows) // 2
    gone = host.rows[middle : middle + 9]
    kept = host.rows[:middle] + host.rows[middle + 9 :]
    loss = Loss("missed-events", None, gone[0][0] - 1, gone[-1][0] + 1, len(gone))
    account = _account(FakeSource(kept, losses=[loss]))
    assert (account.status, account.disagreements) == (0, 0), account.verdict
