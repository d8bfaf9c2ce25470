"""A long trace as slices: what each needs of the rows around it, found in one pass."""
