"""Gumbel noise and the argmax: the softmax, ``p = exp(x) / sum exp(x)`` with ``x = theta / eps``.

The largest of the perturbed scores is a Gumbel variable at ``logsumexp(x)`` whoever attains it, so
``E[y_i Z_i] = p_i (gamma - log p_i)``. Plain NumPy in float64: one pass over the scores is all.
"""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from .codes import JACOBIAN, MOMENTS, PRODUCT, VALUE


def integrals(operation: int, theta, epsilon, v, w) -> np.ndarray:
    """As ``launch.launch``, (rows, slots, size)."""
    p = softmax(theta, epsilon)
    if operation == VALUE:
        return p[:, None]
    if operation == MOMENTS:
        return np.stack([p, p * np.euler_gamma - xlogy(p, p)], 1)
    inverse = 1 / epsilon.astype(np.float64)
    if operation == JACOBIAN:
        jacobian = -p[:, :, None] * p[:, None] * inverse[:, None]
        i = np.arange(p.shape[1])
        jacobian[:, i, i] = p * (1 - p) * inverse
        return jacobian.reshape(len(p), 1, p.shape[1] ** 2)
    centred = v - (p * v).sum(1, keepdims=True)
    if operation == PRODUCT:
        return (p * centred * inverse)[:, None]
    products = centred * (w - (p * w).sum(1, keepdims=True))
    return (p * (products - (p * products).sum(1, keepdims=True)) * inverse**2)[:, None]


def softmax(theta: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
    """In float64; the first of infinite scores gets all, of scores that are all -inf too."""
    top = theta.max(1, keepdims=True)
    infinite = np.isinf(top[:, 0])
    with np.errstate(invalid="ignore"):
        x = np.exp((theta - top) / epsilon.astype(np.float64))
    if infinite.any():
        x[infinite] = np.eye(theta.shape[1])[theta[infinite].argmax(1)]
    return x / x.sum(1, keepdims=True)
