"""Tables to people and machines: one summary object, and its renderings."""
