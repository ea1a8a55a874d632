"""Fréchet distance of two sets of features: FID over Inception's, FVD over I3D's, else its own name."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _moments(features: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (D,) and a factor R (K, D), K <= D, of the unbiased covariance R^T R."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"features must be finite, (N, D) with N >= 2, not of shape {x.shape}")
    mean = x.mean(0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1)).R


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Squared Fréchet distance of Gaussians fitted to features (N, D), (M, D); >= 0, their unit squared.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) [Dowson & Landau 1982; FID: Heusel et al. 2017]. Few
    samples bias it upwards: compare only figures of equal N and M. Raises ValueError for unusable features.
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"features must be of one width, not {mean_a.shape[0]} and {mean_b.shape[0]}")
    # With S = R^T R the trace of (S_a S_b)^(1/2) is the nuclear norm of R_a R_b^T: no root of a matrix that
    # fewer samples than features leave singular.
    overlap = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = (root_a**2).sum() + (root_b**2).sum() - 2 * overlap
    return float(((mean_a - mean_b) ** 2).sum() + max(spread, 0.0))
