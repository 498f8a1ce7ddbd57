"""The same bits: from run to run, for any number of threads, any batch, any framework and device.

Fixed seeds give fixed results, to the last bit (``docs/reproducibility.md``). Nothing is estimated:
entries that differ are counted.
"""

from __future__ import annotations

import importlib.util
import itertools as it
from collections.abc import Callable
from typing import Any

import numpy as np
from dpo.kernels.reference import Pass

import dpo
from dpo._engine import Sampler
from dpo._seeds import Place

from . import _backend
from ._estimators import OUTPUTS, REDUCTIONS, Case, layer_of
from ._problems import ORACLES, small, wide
from ._results import Check, Section, Skip
from ._settings import Settings

_ROWS, _SPLIT, _SAMPLES = 6, 2, 512

Compute = Callable[[dpo.Perturbed, np.ndarray, str, object], np.ndarray]
"""From a layer, scores, an output and a seed to that output, in NumPy."""
Problem = tuple[dpo.Perturbed, np.ndarray, str]
"""A layer, scores, and an output."""


def run(settings: Settings) -> Section:
    """Repeats, threads, batches and seeds; NumPy's reference; torch, JAX and CUDA where present."""
    seed = settings.seed_for("determinism")
    settings.tick("repeats, threads and batches")
    problems = [
        (layer_of(case, _SAMPLES, reduction), _scores(case), of)
        for oracle, reduction, of in it.product(ORACLES, REDUCTIONS, OUTPUTS)
        for case in (small(oracle, "normal"), wide(oracle, "gumbel"))
        if of != "jacobian" or case.theta.shape[-1] < 10
    ]
    checks = differences(problems, seed)
    checks.append(_seeds_matter(problems, seed))
    settings.tick("reference")
    checks.append(_check("NumPy's reference", _REFERENCE, _from_reference(seed)))
    skipped = []
    for name, (module, compute) in _FRAMEWORKS.items():
        settings.tick(name)
        reason = _why_not(module)
        if reason:
            skipped.append(Skip(f"Same bits: {name}", reason))
        else:
            differ = _differences(compute, problems[:: settings.pick(7, 1)], seed)
            checks.append(_check(name, f"{name} arrays give the bits of NumPy's", differ))
    return Section(
        title="Determinism",
        intro="A seed is a promise: the same bits for any number of threads and any split of a "
        "batch, in every framework, on every device. Outputs of all oracles and variance "
        "reductions are computed twice, in two ways, and entries whose bits differ are counted; "
        "another seed must change nearly all that can change.",
        checks=tuple(checks),
        skipped=tuple(skipped),
    )


def differences(problems: list[Problem], seed: int) -> list[Check]:
    """One check for each way to the same bits."""
    return [
        _check(name, _STATEMENTS[name], _differences(change, problems, seed))
        for name, change in _CHANGES.items()
    ]


def _scores(case: Case) -> np.ndarray:
    return np.resize(case.theta, (_ROWS, *case.event)).astype(np.float32)


def _compute(layer, theta, of, seed, convert=_backend.put) -> Any:
    """The output, in the caller's framework if ``convert`` makes arrays of one."""
    method = layer if of == "value" else getattr(layer, of)
    if of not in ("vjp", "jvp"):
        return _backend.host(method(convert(theta), seed=seed))
    direction = np.ones_like(theta)
    direction[..., 0] = 2
    return _backend.host(method(convert(theta), convert(direction), seed=seed))


# ------------------------------------------------------------------------ two ways to the same bits


def _on_one_thread(layer, theta, of, seed):
    threads = dpo.get_num_threads()
    try:
        dpo.set_num_threads(1)
        return _compute(layer, theta, of, seed)
    finally:
        dpo.set_num_threads(threads)


def _with_another_seed(layer, theta, of, seed):
    return _compute(layer, theta, of, seed ^ 1)


def _in_two_batches(layer, theta, of, seed):
    rows = np.arange(len(theta))
    parts = rows[:_SPLIT], rows[_SPLIT:]
    return np.concatenate([_compute(layer, theta[p], of, Place(seed, rows=p)) for p in parts])


def _in_torch(layer, theta, of, seed):
    import torch

    return _compute(layer, theta, of, seed, torch.from_numpy)


def _in_jax(layer, theta, of, seed):
    import jax.numpy as jnp

    return _compute(layer, theta, of, seed, jnp.asarray)


def _on_cuda(layer, theta, of, seed):
    with _backend.running_on("cuda"):
        return _compute(layer, theta, of, seed)


_CHANGES: dict[str, Compute] = {
    "a second run": _compute,
    "one thread": _on_one_thread,
    "a split batch": _in_two_batches,
}
_STATEMENTS = {
    "a second run": "the same call gives the same bits again",
    "one thread": "one thread gives the bits of all",
    "a split batch": f"{_SPLIT} rows and the other {_ROWS - _SPLIT} give the bits of all at once",
}
_FRAMEWORKS: dict[str, tuple[str, Compute]] = {
    "torch": ("torch", _in_torch),
    "JAX": ("jax", _in_jax),
    "CUDA": ("cupy", _on_cuda),
}
_REFERENCE = "values are those of the unfused NumPy definition"


def _why_not(module: str) -> str:
    if module == "cupy":
        return _backend.missing("cuda")
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed: pip install 'perturbed-optimizers[{module}]'"
    return ""


def _differences(compute: Compute, problems, seed: int) -> int:
    """Entries whose bits differ from those of a plain call."""
    count = 0
    for layer, theta, of in problems:
        plain, other = _compute(layer, theta, of, seed), compute(layer, theta, of, seed)
        count += int((plain != other).sum()) if plain.shape == other.shape else plain.size
    return count


def _from_reference(seed: int) -> int:
    count = 0
    for oracle, noise in it.product(ORACLES, ("normal", "gumbel", "logistic")):
        case = small(oracle, noise)
        layer, theta = layer_of(case, 64, "loo"), _scores(case)
        call, _ = layer._prepare(theta, Place(seed), "value")
        whole = call.sampler
        assert isinstance(whole, Sampler)
        reference = Pass(whole.problem, whole.theta, whole.epsilon, whole.draws)
        counts = reference.counts()[:, 0].reshape(theta.shape)
        count += int((layer(theta, seed=seed) != (counts / 64).astype(np.float32)).sum())
    return count


def _seeds_matter(problems, seed: int) -> Check:
    """Values of Monte-Carlo means repeat by chance; those of maxima do not."""
    maxima = [problem for problem in problems if problem[2] == "max"]
    differ = _differences(_with_another_seed, maxima, seed)
    share = differ / sum(len(theta) for _, theta, _ in maxima)
    statement = "a seed that differs in one bit gives other maxima: share of entries"
    return Check("Another seed, other bits", statement, share, 0.99, ">")


def _check(name: str, statement: str, count: int) -> Check:
    return Check(f"Same bits: {name}", f"{statement}: entries that differ", count, 0)
