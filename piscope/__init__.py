"""piscope: what VMX posted-interrupt notifications hit, read from KVM traces."""

__version__ = "0.1.0"
