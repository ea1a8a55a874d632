"""A user study: a page that people answer, and what their answers say."""
