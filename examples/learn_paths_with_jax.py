"""Learn what terrain costs from the paths that were taken through it, in one jitted JAX program.

python examples/learn_paths_with_jax.py
"""

from __future__ import annotations

import jax
from jax import numpy as jnp

import dpo

TRUE_COSTS = jnp.array([0.5, 1.0, 3.0, 6.0])
"""Of grass, sand, forest and water."""
LAYER = dpo.Perturbed(dpo.ShortestPath(neighbors=8), epsilon=0.5, num_samples=16)


def maps_and_paths(key, count: int, size: int = 12):
    """Terrain maps, one-hot (count, size, size, 4), and the cheapest path through each."""
    terrain = jax.nn.one_hot(jax.random.randint(key, (count, size, size), 0, 4), 4)
    return terrain, cheapest(terrain @ TRUE_COSTS)


def cheapest(costs):
    """With next to no noise."""
    return dpo.perturbed_shortest_path(costs, epsilon=1e-6, num_samples=1, seed=0)


@jax.jit
def step(weights, terrain, paths, key):
    """A step of gradient descent on the Fenchel-Young loss; costs are exp(weights), positive."""

    def loss(weights):
        return LAYER.loss(terrain @ jnp.exp(weights), paths, seed=key).mean()

    value, slope = jax.value_and_grad(loss)(weights)
    return weights - 0.05 * slope, value


def shown(costs) -> list[float]:
    return [round(cost, 2) for cost in costs.tolist()]


def main() -> None:
    """Only ratios of costs can be learned from paths: compare them."""
    terrain, paths = maps_and_paths(jax.random.key(0), 64)
    weights, key = jnp.zeros(4), jax.random.key(1)
    for number in range(101):
        key, now = jax.random.split(key)
        weights, value = step(weights, terrain, paths, now)
        if number % 20 == 0:
            print(f"step {number:3d}   loss {value:.3f}   costs {shown(jnp.exp(weights))}")

    unseen, truth = maps_and_paths(jax.random.key(2), 64)
    taken = cheapest(unseen @ jnp.exp(weights))
    spent, least = ((y * (unseen @ TRUE_COSTS)).sum() for y in (taken, truth))
    print(f"costs learned {shown(jnp.exp(weights))}, true {shown(TRUE_COSTS)}, up to a factor")
    print(f"new maps: paths cost {100 * (spent / least - 1):.1f} % more than the cheapest")


if __name__ == "__main__":
    main()
