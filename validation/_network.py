"""A small multilayer perceptron in plain NumPy, several seeds trained side by side.

    scores = relu(x W1 + b1) W2 + b2

The leading axis of every array is the seed, so that one batched matrix product serves all.
"""

from __future__ import annotations

import numpy as np

_DECAY_1, _DECAY_2, _TINY = 0.9, 0.999, 1e-8  # Adam's usual constants


class Networks:
    """``seeds`` networks ``inputs -> hidden -> outputs`` with Adam, each from its own start."""

    def __init__(self, seeds: list[int], inputs: int, hidden: int, outputs: int, rate: float):
        starts = [np.random.default_rng((seed, 1)) for seed in seeds]

        def weights(rows: int, columns: int) -> np.ndarray:
            scale = np.sqrt(2 / rows)  # He initialisation
            return np.stack([scale * rng.normal(size=(rows, columns)) for rng in starts])

        k = len(seeds)
        shapes = [weights(inputs, hidden), np.zeros((k, 1, hidden))]
        shapes += [weights(hidden, outputs), np.zeros((k, 1, outputs))]
        self.parameters: list[np.ndarray] = [p.astype(np.float32) for p in shapes]
        self.rate = rate
        self._first = [np.zeros_like(p) for p in self.parameters]
        self._second = [np.zeros_like(p) for p in self.parameters]
        self._steps = 0

    def scores(self, x: np.ndarray) -> np.ndarray:
        """(seeds or 1, n, inputs) -> (seeds, n, outputs)."""
        return self.forward(x)[0]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scores and the hidden layer, which the backward pass needs."""
        w1, b1, w2, b2 = self.parameters
        hidden = np.maximum(x @ w1 + b1, 0)
        return hidden @ w2 + b2, hidden

    def gradients(self, x, hidden, slope) -> list[np.ndarray]:
        """The parameters' gradients from ``slope``, the gradient in the scores."""
        _, _, w2, _ = self.parameters
        below = (slope @ w2.swapaxes(1, 2)) * (hidden > 0)
        return [
            x.swapaxes(1, 2) @ below,
            below.sum(1, keepdims=True),
            hidden.swapaxes(1, 2) @ slope,
            slope.sum(1, keepdims=True),
        ]

    def step(self, gradients: list[np.ndarray]) -> None:
        """One step of Adam."""
        self._steps += 1
        correct_1, correct_2 = 1 - _DECAY_1**self._steps, 1 - _DECAY_2**self._steps
        moments = zip(self.parameters, gradients, self._first, self._second, strict=True)
        for parameter, gradient, first, second in moments:
            first += (1 - _DECAY_1) * (gradient - first)
            second += (1 - _DECAY_2) * (gradient * gradient - second)
            parameter -= self.rate * (first / correct_1) / (np.sqrt(second / correct_2) + _TINY)
