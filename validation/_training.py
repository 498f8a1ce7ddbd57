"""Losses on scores, and the training loop of the digits experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

import dpo

from ._network import Networks

HIDDEN, RATE, BATCH = 64, 2e-3, 32
TRAIN_SAMPLES, TEST_SAMPLES = 64, 256


class Loss(NamedTuple):
    """A loss of scores and one-hot targets: its values, and its gradient in the scores."""

    name: str
    value: Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]
    gradient: Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]


class Data(NamedTuple):
    """Images scaled to [0, 1] and one-hot labels, split once and for all."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


class History(NamedTuple):
    """Curves of shape (epochs, seeds)."""

    train_loss: np.ndarray
    test_loss: np.ndarray
    validation_accuracy: np.ndarray
    test_accuracy: np.ndarray


def cross_entropy() -> Loss:
    """``logsumexp(theta) - <theta, y>``."""
    return Loss(
        "cross-entropy",
        lambda scores, y, seed: logsumexp(scores, -1) - (scores * y).sum(-1),
        lambda scores, y, seed: softmax(scores, -1) - y,
    )


def fenchel_young(epsilon: float) -> Loss:
    """The perturbed Fenchel-Young loss with normal noise; its gradient is ``layer(theta) - y``.

    With one-hot targets and centred noise ``eps Omega(y) = 0``: the loss needs no offset, and its
    infimum is zero.
    """
    few = dpo.Perturbed(noise="normal", epsilon=epsilon, num_samples=TRAIN_SAMPLES)
    many = dpo.Perturbed(noise="normal", epsilon=epsilon, num_samples=TEST_SAMPLES)
    return Loss(
        f"ε = {epsilon:g}",
        lambda scores, y, seed: many.loss(scores, y, seed=seed),
        lambda scores, y, seed: few(scores, seed=seed) - y,
    )


def train(loss: Loss, data: Data, seeds: list[int], epochs: int) -> tuple[Networks, History]:
    """Adam on shuffled minibatches; a network's start and batches come from its seed.

    Matrix products stay on one BLAS thread: these are so small that more threads only wait.
    """
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    with threadpool_limits(1, "blas"):
        return _train(loss, data, seeds, epochs)


def _train(loss: Loss, data: Data, seeds: list[int], epochs: int) -> tuple[Networks, History]:
    x, y = data.train
    networks = Networks(seeds, x.shape[-1], HIDDEN, y.shape[-1], RATE)
    orders = [np.random.default_rng((seed, 2)) for seed in seeds]
    rows, step = [_evaluate(networks, loss, data, 0)], 0
    for epoch in range(1, epochs + 1):
        order = np.stack([rng.permutation(len(x)) for rng in orders])
        for begin in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[:, begin : begin + BATCH]
            scores, hidden = networks.forward(x[batch])
            slope = loss.gradient(scores, y[batch], noise_seed(seeds, step)) / BATCH
            networks.step(networks.gradients(x[batch], hidden, slope))
            step += 1
        rows.append(_evaluate(networks, loss, data, epoch))
    return networks, History(*(np.array(curve) for curve in zip(*rows, strict=True)))


def noise_seed(seeds: list[int], step: int) -> tuple[int, int]:
    """Two words: a new seed a step; rows (networks, images) draw independent noise within it."""
    return step, (1000 + seeds[0]) % 2**32


def _evaluate(networks: Networks, loss: Loss, data: Data, epoch: int):
    def mean_loss(x, y):
        scores = networks.scores(x[None])
        return loss.value(scores, np.broadcast_to(y, scores.shape), (epoch, 7)).mean(-1)

    return (
        mean_loss(*data.train),
        mean_loss(*data.test),
        accuracy(networks, *data.validation),
        accuracy(networks, *data.test),
    )


def accuracy(networks: Networks, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The fraction each network classifies correctly, (seeds,)."""
    return (networks.scores(x[None]).argmax(-1) == y.argmax(-1)).mean(-1)
