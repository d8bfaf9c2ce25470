"""docs/verify.md: the table of the captures, and the JSON by its docstrings.

`python tests/verify/document.py` writes it; a test fails where it is not what would
be written.
"""
# ruff: noqa: E501 - rows of Markdown tables

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from report.json_document import _fields, _intro, _table, _type  # noqa: E402

from piscope.commands.verify_markdown import account_as_markdown  # noqa: E402
from piscope.commands.verify_run import Request, verified  # noqa: E402
from piscope.verify import account  # noqa: E402

DOCUMENT = ROOT / "docs" / "verify.md"
SAMPLES = ROOT / "sample_traces"

_INTRODUCTION = """\
# `piscope verify`

Does a kernel do with its posted-interrupt descriptors what the model says it does?
The command takes captures whose probes on `vmx_vcpu_pi_load` and `vmx_vcpu_pi_put`
read the descriptor, holds the model's own functions against each pair of readings that
follow each other, and says which policy the kernel has, or what it does otherwise.

```console
$ piscope verify TRACE
$ piscope verify --policy suppress-on-put TRACE
$ piscope verify --format md TRACE...
```

| exit status | |
| --- | --- |
| 0 | all agrees, and the trace tells it from the other policy; or, where no policy was named, the VM needs no PI wakeup, so that puts do nothing |
| 1 | a transition disagrees, or PIN or PIW lie outside the range that the trace allows |
| 2 | a trace could not be read |
| 3 | can't tell: no probes, or nothing seen on which the policies differ |

## What is compared

    pi_load entered --load--> returns --loaded--> pi_put entered --put--> returns
          ^                                                                 |
          +-------------------------------- away ---------------------------+

| step | SN, NV, NDST | ON and PIR |
| --- | --- | --- |
| load | as the model's `vmx_vcpu_pi_load` leaves them | gain only what a post may add; the scan of PIR sets ON |
| loaded | stay; up to 5.16 also `pi_pre_block` and `pi_post_block`; creation of the vCPU | free: syncs are not probed |
| put | as `vmx_vcpu_pi_put` leaves them, for the flags that were read and either IF of the guest | as in load |
| away | stay | PIR only gains; ON rises by KVM's posts, or with SN=0 |

A post by hardware leaves no event, so what the model allows is a set of states. A
transition that agrees is counted by the least that explains it: nothing, a post by KVM
that the trace holds, a post by hardware, or a post between a probe's reads of ON and
of PIR. NDST of each pCPU is learned from the loads (or given: `--apic-ids`), in xAPIC
or x2APIC form.

## What to record

Probes are recognized by name (those that tracefs, `perf probe` and fprobe make by
themselves, and `pi_load`, `pi_load_done...`, `pi_put`, `pi_put_done...`), or are named
with `--probe-load` and the like; arguments are `ctl` (64 bits at PID+32), `pir0` to
`pir3` (or `pir` as an array), `preempted`, `blocking`, `vcpu`, or are named with
`--arg`. Fewer probes tell less: without the entries of `pi_put`, say, SN=1 may have
been any preemption. With `sched_switch` recorded, puts by a thread that runs on are
known to be neither preempted nor blocking.

PIN and PIW are compared where /proc/interrupts was saved before and after
(`--interrupts BEFORE AFTER`, or `NAME.meta.txt` beside `NAME.trace.dat` with both
tables). The least is what the trace proves, the most what it can't exclude: each
stretch of a vCPU in the host has room for one notification that nothing shows.

## The captures of this project

Transitions that agree with each policy where the VM needs PI wakeup, with any where it
needs none, and what was found. 6.12 has preempt-only, 6.17 suppress-on-put; `noipiv`
hosts have neither IPI virtualization nor devices. Made by

```console
$ piscope verify --format md sample_traces/proof/*.trace.dat \\
    sample_traces/vmx-*.trace.dat sample_traces/*.perf.data
```

without the captures that have no probes, or bare ones.

"""


def captures() -> list[Path]:
    """The project's captures, of Intel hosts."""
    return [
        *sorted(SAMPLES.glob("proof/*.trace.dat")),
        *sorted(SAMPLES.glob("vmx-*.trace.dat")),
        *sorted(SAMPLES.glob("vmx-*.perf.data")),
    ]


@cache
def accounts() -> list[account.Account]:
    """Of the captures whose probes read the descriptor."""
    found = [verified(str(path), Request()) for path in captures()]
    return [a for a in found if a.readings]


def document() -> str:
    """The whole text."""
    return (
        f"{_INTRODUCTION}{account_as_markdown(accounts())}\n\n## The JSON\n\n"
        "`--json` prints one Account for one trace, and a list of them for several.\n"
        f"`schema_version` is {account.SCHEMA_VERSION}. Unknown is `null`. Instants are"
        " integers, in nanoseconds\nof the trace's clock.\n\n" + _json()
    )


def _json() -> str:
    parts = []
    for cls in (
        account.Account,
        account.KindLine,
        account.CandidateLine,
        account.Group,
        account.Disagreement,
        account.Reading,
        account.Event,
        account.CounterLine,
    ):
        rows = [(key, _type_of(hint), told) for key, hint, told in _fields(cls)]
        if cls is account.CounterLine:
            rows.append(("within", "boolean or null", "it lies in the range"))
        parts.append(f"### {cls.__name__}\n\n{_intro(cls)}\n\n")
        parts.append(_table(("key", "type", ""), rows) + "\n")
    return "".join(parts).rstrip() + "\n"


def _type_of(hint: object) -> str:
    if hint == dict[str, object] or "Any" in str(hint):
        return "object"
    return _type(hint)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
