"""Two captures, before and after a change: rates, and what the difference is worth."""
