"""Datasets: prepared from videos, read by training."""
