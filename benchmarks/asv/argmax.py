"""Time of the perturbed argmax and its derivatives, float32."""

from __future__ import annotations

from . import common


class Call:
    """What a call takes as users make it: all threads, everything included.

    ``value`` draws each noise word once and drops most before any transform; ``max`` adds one
    transform a sample; ``vjp`` decides twice (mean, then weights) and scores every coordinate.
    """

    params = [common.NOISES, common.SIZES]
    param_names = ["noise", "B_d_M"]

    def setup(self, noise, size):
        self.layer, self.theta, self.v = common.prepared(noise, *size)

    def time_value(self, noise, size):
        self.layer(self.theta, seed=0)

    def time_max(self, noise, size):
        self.layer.max(self.theta, seed=0)

    def time_vjp(self, noise, size):
        self.layer.vjp(self.theta, self.v, seed=0)


class Jacobian:
    """The scatter of d scores a sample into a d x d sum, the one output larger than the input."""

    params = [common.NOISES, [(128, 10, 1000), (16, 200, 1000), (2, 1000, 1000)]]
    param_names = ["noise", "B_d_M"]

    def setup(self, noise, size):
        self.layer, self.theta, _ = common.prepared(noise, *size)

    def time_jacobian(self, noise, size):
        self.layer.jacobian(self.theta, seed=0)


class TinyCall:
    """What a call costs when there is nothing to compute: checks, seed, launch, output."""

    params = common.NOISES
    param_names = ["noise"]

    def setup(self, noise):
        self.layer, self.theta, self.v = common.prepared(noise, 1, 2, 1)

    def time_value(self, noise):
        self.layer(self.theta, seed=0)

    def time_vjp(self, noise):
        self.layer.vjp(self.theta, self.v, seed=0)

    def time_max(self, noise):
        self.layer.max(self.theta, seed=0)

    def time_jacobian(self, noise):
        self.layer.jacobian(self.theta, seed=0)


class Spread:
    """What the scores do to the shortcut that drops hopeless coordinates.

    ``spread`` is the standard deviation of the scores, in units where eps is 0.5: at 0 every
    coordinate may win, at 4 only a few ever do.
    """

    params = [common.NOISES, [0.0, 1.0, 4.0]]
    param_names = ["noise", "spread"]

    def setup(self, noise, spread):
        self.layer, self.theta, _ = common.prepared(noise, 16, 1000, 1000, spread)

    def time_value(self, noise, spread):
        self.layer(self.theta, seed=0)


class OneThread(common.OneThread):
    """The kernels' own speed: nanoseconds a perturbed coordinate on one thread.

    Every d has 4 million coordinates, so a difference between columns is the row length's doing:
    padding and per-row work at 10, kept scores up to 512, scores drawn again above.
    """

    params = [common.NOISES, [(400, 10, 1000), (16, 250, 1000), (4, 1000, 1000), (2, 32000, 64)]]
    param_names = ["noise", "B_d_M"]

    def prepare(self, noise, size):
        return common.prepared(noise, *size)
