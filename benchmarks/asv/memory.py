"""Peak resident memory. asv reports the whole process, Python and Numba included."""

from __future__ import annotations

from . import common


class Samples:
    """The claim that nothing of size M x B x d exists: both columns are the same process size.

    One float32 array of the noise would be 16 MB at M = 1,000 and 1.6 GB at M = 100,000.
    """

    params = [["normal", "gumbel"], [1_000, 100_000]]
    param_names = ["noise", "M"]

    def setup(self, noise, num_samples):
        self.layer, self.theta, self.v = common.prepared(noise, 4, 1000, num_samples)

    def peakmem_value(self, noise, num_samples):
        self.layer(self.theta, seed=0)

    def peakmem_vjp(self, noise, num_samples):
        self.layer.vjp(self.theta, self.v, seed=0)


class SamplesOfOracles:
    """The same claim for the other oracles, about 1,000 coordinates an instance.

    Their solutions are as large as the noise: a second and a third array for whoever keeps them.
    """

    params = [["TopK", "Ranks", "ShortestPath"], [1_000, 30_000]]
    param_names = ["oracle", "M"]

    def setup(self, oracle, num_samples):
        shape = (30, 30) if oracle == "ShortestPath" else 1000
        parameters = {"k": 10} if oracle == "TopK" else {}
        self.layer, self.theta, self.v = common.prepared(
            "normal", 4, shape, num_samples, oracle=oracle, **parameters
        )

    def peakmem_value(self, oracle, num_samples):
        self.layer(self.theta, seed=0)

    def peakmem_vjp(self, oracle, num_samples):
        self.layer.vjp(self.theta, self.v, seed=0)
