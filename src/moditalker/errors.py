"""The one error that is meant for users."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: one sentence with the value, the rule and the way out.

    Front ends print it and stop (exit code 2); everything else that is raised is a bug.
    """
