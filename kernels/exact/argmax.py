"""The exact perturbed argmax: a trapezoid rule over the value of the winner, 32 nodes at a time.

In units of the row's temperature (its smallest, where coordinates have their own) a coordinate is
``X_i = x_i + Z_i / a_i``. With ``u_i = a_i (t - x_i)``, the reverse hazard ``r_i = a_i r(u_i)`` and
``e = prod_j G(u_j)``, the chance that nobody exceeds t,

    y_i = int r_i e dt                             z_i = E[y_i Z_i] = int u_i r_i e dt

Derivatives in ``x`` are of ``e`` (``-r_i e``) and of ``r_i`` (``-r'_i``, with
``r'_i = a_i^2 r'(u_i)``); with ``S_v = sum_i v_i r_i`` and ``S'_vw = sum_i v_i w_i r'_i``:

    PRODUCT   (J v)_k      = -int (r_k S_v + r'_k v_k) e dt
    SCALE     d<v, y>/db_k = -int (u_k (r_k S_v + r'_k v_k) + a_k r_k v_k) e dt,   b = 1 / a
    SECOND    D^2 y [v, w]_k =
        int (r_k (S_v S_w + S'_vw) + r'_k (v_k S_w + w_k S_v) + r''_k v_k w_k) e dt
    JACOBIAN  J_ik         = -int r_i r_k e dt,  i != k;   J_ii = -sum_{k != i} J_ik

F itself is ``<theta, y> + <eps, z>``. J is symmetric, so PRODUCT is the VJP and the JVP.

**Layout.** A lane is a node. A block of 32 nodes goes once over the coordinates for ``log e`` and
the sums ``S``, leaving ``r`` in a buffer of (d, 32), and once more for the integrals. Blocks come
from the top down and end where ``e`` is negligible. At every block coordinates too far below it to
matter are passed over; ``nodes.py`` says how far that is, where the ends are and how fine the step.

**Cost.** About ``d`` times 64 to 256 evaluations of the law. **Memory.** O(32 d) a thread.

**Rounding.** ``log e`` is added up in float64, in chunks of 64 terms of the row's precision; so are
the integrals, block by block.
"""

from __future__ import annotations

import math

import numpy as np

from ..bits import float64, fma
from ..cpu._jit import jitable, kernel
from ..cpu.simd import (
    LANES,
    broadcast,
    four_tree_sums,
    lane_array,
    lane_indices,
    load,
    store,
)
from ..cpu.sums import of_type
from .codes import JACOBIAN, MOMENTS, PRODUCT, SCALE, SECOND
from .laws import exp, hazard, hazard_bend, hazard_slope
from .nodes import ceil_log2

CHUNK = 64
PADDING = 4  # coordinates of no weight, so that groups of four need no care


# --------------------------------------------------------------------------------- which, and where


@jitable
def gather(theta, epsilon, rules, x, a, where):
    """The coordinates that can win: ``x``, ``a`` and their places.

    Returns how many there are, the unit, the step, the first node (the highest), the number of
    blocks, and how far above a coordinate's location it is out of the race. Each is used for no
    less than it should be where the rule rounds the number of coordinates up.
    """
    d, shared = theta.size, epsilon.size == 1
    top, unit = -np.inf, np.inf
    for i in range(d):
        if theta[i] > -np.inf:
            top, unit = max(top, theta[i]), min(unit, epsilon[0 if shared else i])
    low, most = rules[0, 1], rules[rules.shape[0] - 1, 2]
    bottom = low if shared else -np.inf
    if not shared:
        for i in range(d):
            if theta[i] > -np.inf:
                bottom = max(bottom, (theta[i] - top + low * epsilon[i]) / unit)
    n, first = 0, bottom
    for i in range(d):
        scale = epsilon[0 if shared else i] / unit
        location = (theta[i] - theta.dtype.type(top)) / theta.dtype.type(unit)
        if location + most * scale > bottom:
            x[n], a[n], where[n] = location, 1.0 / scale, i
            n += 1
    step, _, reach = rules[ceil_log2(n)]
    for j in range(n):
        first = max(first, x[j] + reach / a[j])
    first = step * math.ceil(first / step)
    blocks = math.ceil((first - bottom) / (step * LANES))
    return n, unit, step, first, blocks, reach


@jitable
def is_passed_over(x, a, j, lowest, reach):
    """Whether coordinate j is below every node of the block, to within the tolerance."""
    return (lowest - x[j]) * a[j] > reach


# ------------------------------------------------------------------------------------ one block


@jitable
def solve_block(family, x, a, n, t, lowest, reach, hazards):
    """``e``, float64, at the nodes ``t``; ``hazards[j]`` receives ``r(u_j)``."""
    minus_log_e = broadcast(0.0)
    for begin in range(0, n, CHUNK):
        chunk = broadcast(x.dtype.type(0.0))
        for j in range(begin, min(n, begin + CHUNK)):
            if is_passed_over(x, a, j, lowest, reach):
                store(hazards, j * LANES, broadcast(x.dtype.type(0.0)))
            else:
                minus_log, r = hazard(family, (t - x[j]) * a[j])
                store(hazards, j * LANES, r)
                chunk = chunk + minus_log
        minus_log_e = minus_log_e + float64(chunk)
    return exp(-minus_log_e)


@jitable
def weigh_hazards(a, n, v, where, hazards):
    """``S_v = sum_j v_j r_j`` at every node."""
    total = broadcast(0.0)
    for begin in range(0, n, CHUNK):
        chunk = broadcast(a.dtype.type(0.0))
        for j in range(begin, min(n, begin + CHUNK)):
            chunk = fma(broadcast(v[where[j]] * a[j]), load(hazards, j * LANES), chunk)
        total = total + float64(chunk)
    return of_type(a, total)


@jitable
def weigh_slopes(family, x, a, n, v, w, where, t, hazards):
    """``S'_vw = sum_j v_j w_j r'_j`` at every node."""
    total = broadcast(0.0)
    for begin in range(0, n, CHUNK):
        chunk = broadcast(a.dtype.type(0.0))
        for j in range(begin, min(n, begin + CHUNK)):
            i = where[j]
            slope = hazard_slope(family, (t - x[j]) * a[j], load(hazards, j * LANES))
            chunk = fma(broadcast(v[i] * w[i] * a[j] * a[j]), slope, chunk)
        total = total + float64(chunk)
    return of_type(a, total)


# The integrands over ``e`` of coordinate i, the j-th that matters; see above.


@jitable
def value_term(family, u, r, a, v, w, sums):
    return r * a


@jitable
def moment_term(family, u, r, a, v, w, sums):
    return u * r * a


@jitable
def product_term(family, u, r, a, v, w, sums):
    return -fma(hazard_slope(family, u, r), broadcast(a * a * v), r * a * sums[0])


@jitable
def scale_term(family, u, r, a, v, w, sums):
    return fma(u, product_term(family, u, r, a, v, w, sums), r * (-a * a * v))


@jitable
def second_term(family, u, r, a, v, w, sums):
    s_v, s_w, s_vw = sums
    slope = hazard_slope(family, u, r) * (a * a)
    bend = hazard_bend(family, u, r) * (a * a * a * v * w)
    return fma(r * a, fma(s_v, s_w, s_vw), fma(slope, s_w * v + s_v * w, bend))


def integrator(term):
    """``out[i] += int term e dt`` over a block: a loop for each integrand."""

    @jitable
    def one(j, family, t, weights, x, a, v, w, where, sums, hazards):
        r = load(hazards, j * LANES)
        u = (t - x[j]) * a[j]
        return weights * term(family, u, r, a[j], v[where[j]], w[where[j]], sums)

    @jitable
    def integrate(family, n, t, weights, lowest, reach, x, a, v, w, where, sums, hazards, out):
        for j in range(0, n, 4):
            if (
                is_passed_over(x, a, j, lowest, reach)
                and is_passed_over(x, a, j + 1, lowest, reach)
                and is_passed_over(x, a, j + 2, lowest, reach)
                and is_passed_over(x, a, j + 3, lowest, reach)
            ):
                continue
            total = four_tree_sums(
                one(j, family, t, weights, x, a, v, w, where, sums, hazards),
                one(j + 1, family, t, weights, x, a, v, w, where, sums, hazards),
                one(j + 2, family, t, weights, x, a, v, w, where, sums, hazards),
                one(j + 3, family, t, weights, x, a, v, w, where, sums, hazards),
            )
            for k in range(min(4, n - j)):
                out[where[j + k]] += np.float64(total[k])

    return integrate


integrate_value = integrator(value_term)
integrate_moment = integrator(moment_term)
integrate_product = integrator(product_term)
integrate_scale = integrator(scale_term)
integrate_second = integrator(second_term)


@jitable
def integrate_jacobian(n, weights, a, where, hazards, d, out):
    """``out[i, k] += J_ik`` over the block, for all i and k."""
    for j in range(n):
        row = weights * load(hazards, j * LANES) * -a[j]
        i = where[j]
        for begin in range(j + 1, n, 4):
            at = begin * LANES
            total = four_tree_sums(
                row * load(hazards, at),
                row * load(hazards, at + LANES),
                row * load(hazards, at + 2 * LANES),
                row * load(hazards, at + 3 * LANES),
            )
            for k in range(min(4, n - begin)):
                other = where[begin + k]
                entry = np.float64(total[k] * a[begin + k])
                out[i * d + other] += entry
                out[other * d + i] += entry
                out[i * d + i] -= entry
                out[other * d + other] -= entry


# ---------------------------------------------------------------------------------- the launch


@kernel
def run(
    task_begin, task_end, parts, operation, family, theta, epsilon, rules, negligible, v, w, out
):  # fmt: skip
    """Tasks ``task_begin .. task_end - 1``: a row each, or every ``parts``-th block of one.

    ``theta``, ``v`` and ``w`` are (rows, d), ``epsilon`` (rows, 1 or d), all of one precision;
    ``rules`` is that of ``nodes.rules``, and blocks end where ``e``, which is the probability that
    lies below, is ``negligible``. ``out``, (tasks, slots, size) float64, receives the
    operation's integrals, MOMENTS ``y`` and ``z``.
    """
    d = theta.shape[1]
    x, a = np.zeros(d + PADDING, theta.dtype), np.ones(d + PADDING, theta.dtype)
    where = np.zeros(d + PADDING, np.int64)
    hazards = lane_array(d + PADDING, LANES, theta)
    for task in range(task_begin, task_end):
        b, part = divmod(task, parts)
        out[task] = 0.0
        top = theta[b].max()
        if np.isinf(top):  # somebody always wins: the first of the largest
            if part == 0 and operation <= MOMENTS:
                out[task, 0, theta[b].argmax()] = 1.0
            continue
        n, unit, step, first, blocks, reach = gather(theta[b], epsilon[b], rules, x, a, where)
        hazards[n : n + PADDING] = 0.0
        for block in range(part, blocks, parts):
            at = first - step * LANES * block
            lowest = at - step * (LANES - 1)
            nodes = float64(lane_indices()) * -step + at
            t = of_type(theta, nodes)
            e = solve_block(family, x, a, n, t, lowest, reach, hazards)
            weights = of_type(theta, e * step)
            if operation == JACOBIAN:
                integrate_jacobian(n, weights, a, where, hazards, d, out[task, 0])
            else:
                row_v, row_w = v[min(b, v.shape[0] - 1)], w[min(b, w.shape[0] - 1)]
                s_v = s_w = s_vw = weights
                if operation >= PRODUCT:
                    s_v = weigh_hazards(a, n, row_v, where, hazards)
                if operation == SECOND:
                    s_w = weigh_hazards(a, n, row_w, where, hazards)
                    s_vw = weigh_slopes(family, x, a, n, row_v, row_w, where, t, hazards)
                given = (
                    family, n, t, weights, lowest, reach, x, a, row_v, row_w, where,
                    (s_v, s_w, s_vw), hazards,
                )  # fmt: skip
                if operation <= MOMENTS:
                    integrate_value(*given, out[task, 0])
                if operation == MOMENTS:
                    integrate_moment(*given, out[task, 1])
                if operation == PRODUCT:
                    integrate_product(*given, out[task, 0])
                if operation == SCALE:
                    integrate_scale(*given, out[task, 0])
                if operation == SECOND:
                    integrate_second(*given, out[task, 0])
            store(hazards, 0, weights)
            if parts == 1 and hazards[0, LANES - 1] <= negligible * step:
                break
        if operation >= PRODUCT:
            out[task] *= (1.0 / unit) ** (2 if operation == SECOND else 1)
