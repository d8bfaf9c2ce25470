"""Stimuli through the model: which states a descriptor may be in, and what it did."""
