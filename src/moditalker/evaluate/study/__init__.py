"""A user study: a page with questions, and the score of its answers."""
