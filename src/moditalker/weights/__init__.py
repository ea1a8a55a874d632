"""Weights: files that introduce themselves (`files`), and third parties' by their names (`named`)."""
