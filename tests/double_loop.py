"""The spatial transformer written as its double sum over pixels."""

from __future__ import annotations

import numpy as np


def bilinear_double_loop(image: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """out[i,j] = sum_n sum_m image[n,m] k(py_ij - n) k(px_ij - m), k(d) = max(0, 1 - |d|) (Jaderberg et al. 2015)."""
    rows, columns = image.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            u, v = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            x, y = matrix @ np.array([u, v, 1.0])
            px, py = ((x + 1) * columns - 1) / 2, ((y + 1) * rows - 1) / 2
            for n in range(rows):
                for m in range(columns):
                    out[i, j] += image[n, m] * max(0, 1 - abs(py - n)) * max(0, 1 - abs(px - m))
    return out
