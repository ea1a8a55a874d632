"""The one exception that front ends show to a user without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave us: one sentence with the value, the rule and the way out."""
