"""Which of KVM's posts are replayed as hardware's: what `--posted` means.

    auto       vfio where the host handled vfio interrupts (remapped mode), else msi
    none       none: every post stays what it was
    msi        each MSI with one destination, whoever sent it
    vfio       interrupts of assigned devices, posted at their irq_handler_entry
    vhost, irqfd, emulated   MSIs of such devices: what if they were passed through
    ipi        IPIs that IPI virtualization takes, posted at the sender's VM-exit

Words are joined by commas. Whatever hardware can't post (a line, several destinations,
logical IPIs) stays KVM's.
"""

from __future__ import annotations

from piscope.errors import UsageError

__all__ = ("POSTED_WORDS", "Posted", "parse_posted", "posted_text")

Posted = str
"""A value of `--posted`."""

_ALONE = ("auto", "none")
POSTED_WORDS = (*_ALONE, "msi", "vfio", "vhost", "irqfd", "emulated", "ipi")
"""All words of `--posted`, in the order in which they are written."""


def parse_posted(text: Posted) -> tuple[str, ...]:
    """The words of a value of `--posted`, each once, in the order of POSTED_WORDS.

    Raises UsageError for a word that is none, and for words that exclude each other.
    """
    words = text.split(",")
    for word in words:
        if word in ("timer", "self", "unknown"):
            raise UsageError(f"--posted {text}: no hardware posts what is {word}'s")
        if word not in POSTED_WORDS:
            known = ", ".join(POSTED_WORDS[len(_ALONE) :])
            raise UsageError(
                f"--posted {text}: {word!r} is no origin, expected auto, none, or some"
                f" of {known}, with commas between them"
            )
    for word in _ALONE:
        if word in words and len(set(words)) > 1:
            raise UsageError(f"--posted {text}: {word} goes with nothing else")
    return tuple(word for word in POSTED_WORDS if word in words)


_TEXTS = {
    "none": "the posts as they were made",
    "msi": "each MSI as if a posting device had posted it itself",
    "vfio": "interrupts of assigned devices as if VT-d had posted them",
    "vhost": "MSIs of vhost as if its devices were passed through",
    "irqfd": "MSIs by an irqfd's work as if their devices were passed through",
    "emulated": "MSIs of emulated devices as if those were passed through",
    "ipi": "IPIs as if IPI virtualization had delivered them",
}


def posted_text(posted: Posted) -> str:
    """What a value without `auto` means, for people."""
    return "; ".join(_TEXTS[word] for word in parse_posted(posted))
