"""Judges videos and writes tables: pairs -> observe -> measures -> run -> report."""
