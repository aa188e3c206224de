#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fits the coefficients of kernels/common/activation.cuh and prints them with their relative errors.

Needs numpy. Polynomials and rational functions are fitted by Lawson's iteration: least squares with weights that grow
where the relative error is large, until it is level."""
import math

import numpy as np


def nodes(low, high, count=4000):
    return (low + high) / 2 + (high - low) / 2 * np.cos(np.linspace(0, math.pi, count))


def fit_polynomial(x, y, degree, turns=60):
    matrix = np.vander(x, degree + 1, increasing=True) / y[:, None]
    weights = np.ones_like(x)
    for _ in range(turns):
        root = np.sqrt(weights)
        coefficients, *_ = np.linalg.lstsq(matrix * root[:, None], root, rcond=None)
        error = abs(matrix @ coefficients - 1)
        weights = np.maximum(weights * error / (weights * error).sum(), 1e-18)
    return coefficients, error.max()


def fit_tanh_ratio(largest, degree, turns=200):
    """tanh(x) / x = n(x^2) / d(x^2), both of `degree`, d(0) = 1, for 0 < x <= largest."""
    x = largest * (1 - np.cos(np.linspace(0, math.pi / 2, 3000)))[1:]
    y, z = np.tanh(x) / x, (x / largest) ** 2
    powers = np.vander(z, degree + 1, increasing=True)
    weights, denominator, best = np.ones_like(x), np.ones_like(x), None
    for _ in range(turns):
        scale = np.sqrt(weights) / (y * denominator)
        matrix = np.hstack([powers, -y[:, None] * powers[:, 1:]])
        c, *_ = np.linalg.lstsq(matrix * scale[:, None], y * scale, rcond=None)
        denominator = powers @ np.r_[1, c[degree + 1:]]
        error = abs(powers @ c[:degree + 1] / denominator / y - 1)
        if best is None or error.max() < best[2]:
            best = c[:degree + 1], np.r_[1, c[degree + 1:]], error.max()
        weights = np.maximum(weights * (error / error.mean()) ** 0.7, 1e-16)
        weights /= weights.sum()
    units = largest ** (2.0 * np.arange(degree + 1))
    return best[0] / units, best[1] / units, best[2]


def show(name, coefficients, error):
    print(f"{name}: {' '.join(f'{np.float32(c):.8g}' for c in coefficients)}  relative error {error:.1e}")


def main():
    p = 0.3
    t = nodes(1 / (1 + p * 13.2), 1.0)
    u = (1 / t - 1) / p
    tail = np.array([0.5 * math.erfc(v / math.sqrt(2)) * math.exp(v * v / 2) for v in u])
    show(f"gelu, in t = 1 / (1 + {p} |x|), lowest first", *fit_polynomial(t, tail, 6))
    n, d, error = fit_tanh_ratio(7.7, 3)
    show("tanh, numerator in x^2", n, error)
    show("tanh, denominator in x^2", d, error)
    x = np.sqrt(nodes(1e-9, 1.0))
    show("tanh near zero, in x^2", *fit_polynomial(x * x, np.tanh(x) / x, 5))


if __name__ == "__main__":
    main()
