"""Exact top-k: the chance to be among the k largest, by a dynamic programme at every node.

A variable ``X_i = x_i + Z_i / a_i`` is in if fewer than k others exceed it:

    y_i = int f_i B_i dt,     B_i(t) = P(#{j != i : X_j > t} < k)
    z_i = E[y_i Z_i] = int u_i f_i B_i dt

with ``f_i = a_i f(u_i)``. ``#`` is a sum of independent 0/1 variables of probabilities
``q_j = Q(u_j)``, a Poisson-binomial count. With ``c_n`` the chance of exactly n among those before
i, and ``b_n`` of less than ``k - n`` among those after,

    B_i = sum_n c_n b_n      c_n <- c_n + q_i (c_{n-1} - c_n)      b_n <- b_n + q_i (b_{n+1} - b_n)

All terms are positive: chances near 0 and 1 are as accurate as any. Derivatives along ``v`` and
``w`` are the same recursions on truncated Taylor numbers (``q_v = v f``, ``q_vw = v w df/dx``):
PRODUCT is the derivative of ``y`` along ``v``, SCALE that of ``z``, SECOND that of ``y`` along
both.

**Work.** Coordinates that are certainly in or out are settled first; the others, at most as many
as can matter, take ``4 n min(k, n - k)`` fused multiply-adds a node (forward, again forward from
checkpoints, backward, product). Where k is more than half of them, the ``n - k`` smallest are found
instead, by mirroring. A lane is a node; float64 throughout.

**Memory.** ``512 sqrt(n) k`` bytes a thread, times 2 for a derivative, 4 for SECOND.
"""

from __future__ import annotations

import math

import numpy as np

from ..bits import float64, fma
from ..cpu._jit import jitable, kernel
from ..cpu.simd import LANES, broadcast, lane_indices, load, store, tree_sum
from .codes import MOMENTS, PRODUCT, SCALE, SECOND
from .laws import density, score
from .nodes import ceil_log2

# ------------------------------------------------------------------------- what is settled at once


@jitable
def settle_infinite(theta, k, y, z, mean, where):
    """Infinite scores in or out, the lowest index first; finite ones go to ``where``.

    Returns how many of those remain to be judged, and how many of them are in.
    """
    d, n, room = theta.size, 0, k
    for i in range(d):
        if theta[i] == np.inf and room > 0:
            y[i], z[i] = 1.0, mean
            room -= 1
        elif -np.inf < theta[i] < np.inf:
            where[n] = i
            n += 1
    if n > room:
        return (n, room) if room > 0 else (0, 0)
    for j in range(n):
        y[where[j]], z[where[j]] = 1.0, mean
    room -= n
    for i in range(d):
        if theta[i] == -np.inf and room > 0:
            y[i], z[i] = 1.0, mean
            room -= 1
    return 0, 0


@jitable
def settle_certain(x, a, where, n, k, low, high, y, z, mean):
    """Keep, at the front of ``x``, ``a`` and ``where``, those of n that are neither in nor out.

    Coordinate i is in if it exceeds the k-th largest of the others, which lies between the k-th
    largest of their lower and of their upper ends. Returns how many are kept, how many of them are
    in, and the lowest and highest value that may decide.
    """
    lower, upper = np.empty(n), np.empty(n)
    for j in range(n):
        lower[j], upper[j] = x[j] + low / a[j], x[j] + high / a[j]
    lower.sort()
    upper.sort()
    kept, room, bottom, top = 0, k, np.inf, -np.inf
    for j in range(n):
        end, peak = x[j] + low / a[j], x[j] + high / a[j]
        least = lower[n - k - 1] if end >= lower[n - k] else lower[n - k]
        most = upper[n - k - 1] if peak >= upper[n - k] else upper[n - k]
        if end > most:
            y[where[j]], z[where[j]] = 1.0, mean
            room -= 1
        elif peak >= least:
            x[kept], a[kept], where[kept] = x[j], a[j], where[j]
            kept += 1
            bottom, top = min(bottom, least), max(top, most)
    if room <= 0 or room >= kept:
        for j in range(kept):
            y[where[j]] = 1.0 if room > 0 else 0.0
            z[where[j]] = mean if room > 0 else 0.0
        return 0, 0, bottom, top
    return kept, room, bottom, top


# ----------------------------------------------------------------------------------- Taylor numbers


def programme(parts):
    """The block's dynamic programme on numbers of 1, 2 or 4 parts, compiled for each.

    The parts are the value and the derivatives along v, along w, and along both. The chances of a
    count are an array (parts, k + 2), the count n at n + 1, zeros at both ends.
    """

    @jitable
    def multiply(q, x):
        zero = broadcast(0.0)
        value = q[0] * x[0]
        along_v = along_w = along_both = zero
        if parts > 1:
            along_v = fma(q[0], x[1], q[1] * x[0])
        if parts > 2:
            along_w = fma(q[0], x[2], q[2] * x[0])
            along_both = fma(q[0], x[3], fma(q[1], x[2], fma(q[2], x[1], q[3] * x[0])))
        return value, along_v, along_w, along_both

    @jitable
    def get(state, stride, n):
        value = along_v = along_w = along_both = load(state, n * LANES)
        if parts > 1:
            along_v = load(state, (stride + n) * LANES)
        if parts > 2:
            along_w = load(state, (2 * stride + n) * LANES)
            along_both = load(state, (3 * stride + n) * LANES)
        return value, along_v, along_w, along_both

    @jitable
    def put(state, stride, n, x):
        store(state, n * LANES, x[0])
        if parts > 1:
            store(state, (stride + n) * LANES, x[1])
        if parts > 2:
            store(state, (2 * stride + n) * LANES, x[2])
            store(state, (3 * stride + n) * LANES, x[3])

    @jitable
    def moved(q, here, there):
        """``here + q (there - here)``."""
        change = multiply(
            q, (there[0] - here[0], there[1] - here[1], there[2] - here[2], there[3] - here[3])
        )
        return here[0] + change[0], here[1] + change[1], here[2] + change[2], here[3] + change[3]

    @jitable
    def forward(state, target, k, q):
        """Chances of a count with one coordinate more."""
        before = get(state, k + 2, 0)
        for n in range(1, k + 1):
            here = get(state, k + 2, n)
            put(target, k + 2, n, moved(q, here, before))
            before = here

    @jitable
    def backward(state, k, q):
        """Likewise, of less than ``k - n`` after one coordinate fewer; in place."""
        here = get(state, k + 2, 1)
        for n in range(1, k + 1):
            after = get(state, k + 2, n + 1)
            put(state, k + 2, n, moved(q, here, after))
            here = after

    @jitable
    def contract(c, b, k):
        """``sum_n c_n b_n``."""
        zero = broadcast(0.0)
        total = zero, zero, zero, zero
        for n in range(1, k + 1):
            x = multiply(get(c, k + 2, n), get(b, k + 2, n))
            total = total[0] + x[0], total[1] + x[1], total[2] + x[2], total[3] + x[3]
        return total

    @jitable
    def exceed(j, q, f, slope, v, w):
        """``P(X_j > t)``."""
        fj = load(f, j * LANES)
        return load(q, j * LANES), fj * v, fj * w, load(slope, j * LANES) * (v * w)

    @kernel
    def chances(n, k, where, v, w, q, f, slope, checkpoints, history, result):
        """``result[:, j]``, (parts, n): ``B_j`` at the nodes of a block."""
        span = history.shape[0]
        c, b = checkpoints[checkpoints.shape[0] - 1], checkpoints[checkpoints.shape[0] - 2]
        c[:] = 0.0
        c[1] = 1.0
        b[:] = 0.0
        b[1 : k + 1] = 1.0
        for j in range(n):
            if j % span == 0:
                checkpoints[j // span] = c
            i = where[j]
            forward(c, c, k, exceed(j, q, f, slope, v[i], w[i]))
        for first in range((n - 1) // span * span, -1, -span):
            last = min(n, first + span)
            history[0] = checkpoints[first // span]
            for j in range(first, last - 1):
                i, at = where[j], j - first
                forward(history[at], history[at + 1], k, exceed(j, q, f, slope, v[i], w[i]))
            for j in range(last - 1, first - 1, -1):
                i = where[j]
                put(result, n, j, contract(history[j - first], b, k))
                backward(b, k, exceed(j, q, f, slope, v[i], w[i]))

    return chances


chances_1, chances_2, chances_4 = programme(1), programme(2), programme(4)


# ---------------------------------------------------------------------------------------- a block


@jitable
def fill_laws(family, sign, x, a, n, at, step, u, q, f, slope, bend):
    """The laws of all coordinates at the nodes of a block, of X or of -X."""
    for j in range(n):
        lanes = float64(lane_indices()) * (-step * a[j]) + (at - x[j]) * a[j]
        fj, above, below = density(family, lanes * sign)
        s, ds = score(family, lanes * sign, below)
        fj = fj * a[j]
        store(u, j * LANES, lanes)
        store(q, j * LANES, above if sign > 0 else below)
        store(f, j * LANES, fj)
        store(slope, j * LANES, fj * s * (sign * a[j]))
        store(bend, j * LANES, fj * fma(s, s, -ds) * (a[j] * a[j]))


@kernel
def integrate(operation, n, step, a, where, v, w, u, f, slope, bend, chances, y, z):
    """Add a block's integrals to ``y`` (and ``z``)."""
    for j in range(n):
        i, at = where[j], j * LANES
        uj, fj, value = load(u, at), load(f, at), load(chances, at)
        if operation <= MOMENTS:
            y[i] += step * tree_sum(fj * value)
            if operation == MOMENTS:
                z[i] += step * tree_sum(uj * fj * value)
            continue
        along_v = load(chances, (n + j) * LANES)
        moved = load(slope, at) * v[i]
        if operation == PRODUCT:
            total = fma(moved, value, fj * along_v)
        elif operation == SCALE:
            total = fma(fma(uj, moved, fj * (-a[j] * v[i])), value, uj * fj * along_v)
        else:
            along_w, along_both = (
                load(chances, (2 * n + j) * LANES),
                load(chances, (3 * n + j) * LANES),
            )
            total = fma(fj, along_both, load(bend, at) * (v[i] * w[i]) * value)
            total = fma(load(slope, at), fma(along_w, v[i], along_v * w[i]), total)
        y[i] += step * tree_sum(total)


@kernel
def judge(operation, family, mean, k, n, x, a, where, bottom, top, rules, v, w, y, z):
    """The n uncertain coordinates, of which k are in; what decides lies in ``bottom .. top``."""
    sign = 1.0 if 2 * k <= n else -1.0  # of X, or of -X: the n - k smallest
    step, _, high = rules[0 if sign > 0 else 1, ceil_log2(n)]
    if sign < 0:
        k = n - k
        x[:n] = -x[:n]
        bottom, top = -top, -bottom
    first = bottom
    for j in range(n):
        first = max(first, x[j] + high / a[j])
    first = step * math.ceil(first / step)
    blocks = math.ceil((first - bottom) / (step * LANES))
    parts = 1 if operation <= MOMENTS else (4 if operation == SECOND else 2)
    span = max(1, int(math.sqrt(n)))
    checkpoints = np.empty(((n + span - 1) // span + 2, parts * (k + 2), LANES))
    history = np.zeros((span, parts * (k + 2), LANES))
    u, q, f = np.empty((n, LANES)), np.empty((n, LANES)), np.empty((n, LANES))
    slope, bend = np.empty((n, LANES)), np.empty((n, LANES))
    chances = np.empty((parts * n, LANES))
    for block in range(blocks):
        at = first - step * LANES * block
        fill_laws(family, sign, x, a, n, at, step, u, q, f, slope, bend)
        given = n, k, where, v, w, q, f, slope, checkpoints, history, chances
        if at - step * (LANES - 1) > top:  # no node sees k others above it
            chances[:n], chances[n:] = 1.0, 0.0
        elif parts == 1:
            chances_1(*given)
        elif parts == 2:
            chances_2(*given)
        else:
            chances_4(*given)
        integrate(operation, n, step, a, where, v, w, u, f, slope, bend, chances, y, z)
    for j in range(n):
        i = where[j]
        if sign < 0 and operation <= MOMENTS:
            y[i], z[i] = 1.0 - y[i], mean + z[i]
        elif sign < 0 and operation != PRODUCT:
            y[i] = -y[i]


# ------------------------------------------------------------------------------------- the launch


@jitable
def locate(theta, epsilon, where, n, x, a):
    """Locations and inverse scales of those in ``where``, in units of the smallest temperature."""
    unit, shared = np.inf, epsilon.size == 1
    for j in range(n):
        unit = min(unit, np.float64(epsilon[0 if shared else where[j]]))
    for j in range(n):
        i = where[j]
        x[j], a[j] = theta[i] / unit, unit / epsilon[0 if shared else i]
    return unit


@kernel
def run(task_begin, task_end, operation, family, mean, k, theta, epsilon, rules, vs, ws, out):
    """Rows ``task_begin .. task_end - 1``; ``rules`` (2, _, 3) are those of X and of -X.

    As ``argmax.run`` otherwise.
    """
    d, most = theta.shape[1], rules.shape[1] - 1
    x, a, where = np.empty(d), np.empty(d), np.empty(d, np.int64)
    z = np.empty(d)
    low = min(rules[0, most, 1], -rules[1, most, 2])
    high = max(rules[0, most, 2], -rules[1, most, 1])
    for b in range(task_begin, task_end):
        v, w = vs[min(b, vs.shape[0] - 1)], ws[min(b, ws.shape[0] - 1)]
        out[b], z[:] = 0.0, 0.0
        y = out[b, 0]
        bottom = top = 0.0
        n, room = settle_infinite(theta[b], k, y, z, mean, where)
        unit = locate(theta[b], epsilon[b], where, n, x, a)
        if n > 0:
            n, room, bottom, top = settle_certain(x, a, where, n, room, low, high, y, z, mean)
        if operation > MOMENTS:
            y[:] = 0.0
        if n > 0:
            judge(
                operation, family, mean, room, n, x, a, where, bottom, top, rules, v, w, y, z
            )  # fmt: skip
        if operation > MOMENTS and n > 0:
            y *= (1.0 / unit) ** (2 if operation == SECOND else 1)
        if operation == MOMENTS:
            out[b, 1] = z
