"""Differentiable perturbed optimizers from fused kernels.

    y_eps(theta) = E[y*(theta + eps Z)],   y*(theta) = argmax_{y in Y} <y, theta>

One launch samples the noise, solves the discrete problem for every sample and accumulates the mean
or the score-weighted derivative; nothing of size samples x batch x coordinates is ever stored
(Berthet et al., "Learning with Differentiable Perturbed Optimizers", NeurIPS 2020).
"""

import os as _os

_here = _os.path.dirname(__file__)
if not _os.path.isdir(_os.path.join(_here, "kernels")):
    # Imported from a checkout, where kernels/ and validation/ lie beside this folder, not in it.
    __path__.append(_os.path.dirname(_here))

from ._arrays import get_device_checks as get_device_checks
from ._arrays import set_device_checks as set_device_checks
from ._black_box import PerturbedFunction as PerturbedFunction
from ._black_box import perturbed as perturbed
from ._check_oracle import check_oracle as check_oracle
from ._checks import Adaptive as Adaptive
from ._estimate import Estimate as Estimate
from ._functional import fenchel_young_loss as fenchel_young_loss
from ._functional import perturbed_argmax as perturbed_argmax
from ._functional import perturbed_ranks as perturbed_ranks
from ._functional import perturbed_shortest_path as perturbed_shortest_path
from ._functional import perturbed_topk as perturbed_topk
from ._noise import Gumbel as Gumbel
from ._noise import Laplace as Laplace
from ._noise import Logistic as Logistic
from ._noise import Noise as Noise
from ._noise import NoiseFamily as NoiseFamily
from ._noise import Normal as Normal
from ._noise import StudentT as StudentT
from ._oracle_report import OracleReport as OracleReport
from ._oracles import Argmax as Argmax
from ._oracles import Oracle as Oracle
from ._oracles import Ranks as Ranks
from ._oracles import ShortestPath as ShortestPath
from ._oracles import TopK as TopK
from ._perturbed import Perturbed as Perturbed
from ._solver import PerInstance as PerInstance
from ._user_oracle import oracle as oracle
from ._version import __version__ as __version__
from .kernels.cpu.threads import get_num_threads as get_num_threads
from .kernels.cpu.threads import set_num_threads as set_num_threads
from .kernels.user import SolverError as SolverError


def __getattr__(name: str):
    """The modules that are imported when they are first used: ``dpo.solvers`` and others."""
    if name in ("distributed", "solvers", "torch"):
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
