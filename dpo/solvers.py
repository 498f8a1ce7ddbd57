"""Oracles written in Python, ready to use and to start from: functions under ``dpo.oracle``.

    knapsack(weights=, capacity=)       items worth most whose weights fit
    budgeted_choice(costs=, budget=)    one option for each item, within a budget
    monotone_path()                     a level for each position, never falling
    viterbi(allowed=)                   a state for each step, by allowed transitions only
    spanning_tree(ends=)                edges that connect a graph
    assignment()                        a column of its own for each row

All are exact linear maximisers of the scores. Rules (weights, transitions) decide which solutions
exist; what is traded off against the scores must be in the scores. Of equally good solutions each
takes one that depends on the scores alone.
"""

from __future__ import annotations

import numpy as np

from ._user_oracle import oracle


def _check(name: str, array: np.ndarray, own: tuple[int, ...], what: str) -> None:
    """A parameter must be of integers, and its last axes those that an instance needs."""
    if array.dtype.kind != "i":
        raise TypeError(f"{name} must be integers, got {array.dtype}: round or rescale them")
    if own and array.shape[-len(own) :] != own:
        raise ValueError(f"{name} must be {own}, {what}, got shape {array.shape}")


def _knapsack_table(shape, weights, capacity):
    _check("weights", weights, shape, "one an item")
    _check("capacity", capacity, (), "")
    most = max(int(np.max(capacity, initial=0)), 0)
    return {"best": np.empty((shape[0] + 1, most + 1))}


@oracle(parameters={"weights": 1, "capacity": 0}, workspace=_knapsack_table)
def knapsack(scores, solution, weights, capacity, best):
    """Items whose integer ``weights`` sum to at most ``capacity``, worth most in total, (d,)."""
    d = scores.size
    for room in range(capacity + 1):
        best[0, room] = 0.0
    for i in range(d):
        if weights[i] < 0:
            raise ValueError("weights must not be negative")
        for room in range(capacity + 1):
            value = best[i, room]
            if weights[i] <= room:
                value = max(value, best[i, room - weights[i]] + scores[i])
            best[i + 1, room] = value
    room = capacity
    for i in range(d - 1, -1, -1):
        if best[i + 1, room] > best[i, room]:
            solution[i] = 1
            room -= weights[i]


def _budget_table(shape, costs, budget):
    _check("costs", costs, shape, "one an item and option")
    _check("budget", budget, (), "")
    most = max(int(np.max(budget, initial=0)), 0)
    return {"best": np.empty((shape[0] + 1, most + 1))}


@oracle(event_ndim=2, parameters={"costs": 2, "budget": 0}, workspace=_budget_table)
def budgeted_choice(scores, solution, costs, budget, best):
    """One option for each item, worth most in total, integer ``costs`` within ``budget``.

    Scores and costs are (items, options).
    """
    items, options = scores.shape
    for room in range(budget + 1):
        best[0, room] = 0.0
    for i in range(items):
        for room in range(budget + 1):
            value = -np.inf
            for k in range(options):
                if costs[i, k] < 0:
                    raise ValueError("costs must not be negative")
                if costs[i, k] <= room:
                    value = max(value, best[i, room - costs[i, k]] + scores[i, k])
            best[i + 1, room] = value
    room = budget
    if budget < 0 or best[items, room] == -np.inf:
        raise ValueError("no choice of finite score is within the budget")
    for i in range(items - 1, -1, -1):
        for k in range(options):
            left = room - costs[i, k]
            if left >= 0 and best[i, left] + scores[i, k] == best[i + 1, room]:
                solution[i, k] = 1
                room = left
                break


@oracle(event_ndim=2, workspace=lambda shape: {"best": np.empty(shape)})
def monotone_path(scores, solution, best):
    """A level for each position, never falling, of largest total score, (positions, levels).

    With scores ``-(x[i] - level[k])**2`` it is the isotonic regression of ``x`` to those levels.
    (The regression to real levels is a projection, no linear maximiser.)
    """
    positions, levels = scores.shape
    for i in range(positions):
        before = -np.inf  # the best of the position before, at this level or below
        for k in range(levels):
            if i > 0:
                before = max(before, best[i - 1, k])
                best[i, k] = scores[i, k] + before
            else:
                best[i, k] = scores[i, k]
    last = levels - 1
    for i in range(positions - 1, -1, -1):
        level = 0
        for k in range(1, last + 1):
            if best[i, k] > best[i, level]:
                level = k
        solution[i, level] = 1
        last = level


def _states_table(shape, allowed):
    _check("allowed", allowed, (shape[1], shape[1]), "from state a to state b")
    return {"best": np.empty(shape)}


@oracle(event_ndim=2, parameters={"allowed": 2}, workspace=_states_table)
def viterbi(scores, solution, allowed, best):
    """The best sequence of states, (steps, states); b may follow a if ``allowed[a, b]``.

    Transitions are rules: a transition's own score would be neither perturbed nor counted.
    """
    steps, states = scores.shape
    for b in range(states):
        best[0, b] = scores[0, b]
    for i in range(1, steps):
        for b in range(states):
            value = -np.inf
            for a in range(states):
                if allowed[a, b] != 0:
                    value = max(value, best[i - 1, a])
            best[i, b] = scores[i, b] + value
    after = -1
    for i in range(steps - 1, -1, -1):
        state, value = -1, -np.inf
        for a in range(states):
            if best[i, a] > value and (after < 0 or allowed[a, after] != 0):
                state, value = a, best[i, a]
        if state < 0:
            raise ValueError("no sequence of finite score is allowed")
        solution[i, state] = 1
        after = state


def _nodes(shape, ends):
    _check("ends", ends, (shape[0], 2), "two nodes an edge")
    count = int(np.max(ends, initial=-1)) + 1
    return {"label": np.empty(count, np.int64), "choice": np.empty(count, np.int64)}


@oracle(parameters={"ends": 2}, workspace=_nodes)
def spanning_tree(scores, solution, ends, label, choice):
    """Edges of a spanning tree of largest total score, (edges,); a forest if there is no tree.

    ``ends`` is (edges, 2), nodes 0, 1, ... The lower edge wins a tie. (Boruvka: every component
    takes its best edge, until none leaves it.)
    """
    for node in range(label.size):
        label[node] = node
    merging = True
    while merging:
        for node in range(label.size):
            choice[node] = -1
        for e in range(scores.size):
            if min(ends[e, 0], ends[e, 1]) < 0:
                raise ValueError("ends must not be negative")
            a, b = label[ends[e, 0]], label[ends[e, 1]]
            if a != b:
                if choice[a] < 0 or scores[e] > scores[choice[a]]:
                    choice[a] = e
                if choice[b] < 0 or scores[e] > scores[choice[b]]:
                    choice[b] = e
        merging = False
        for component in range(label.size):
            e = choice[component]
            if e >= 0 and solution[e] == 0:
                merging = True
                solution[e] = 1
                a, b = label[ends[e, 0]], label[ends[e, 1]]
                for node in range(label.size):
                    if label[node] == b:
                        label[node] = a


def _prices(shape):
    rows, columns = shape
    reals = {"price": columns, "open_price": columns, "distance": columns, "settled": columns}
    integers = {"matched": rows, "owner": columns, "before": columns, "tree": columns}
    work = {name: np.empty(size) for name, size in reals.items()}
    return work | {name: np.empty(size, np.int64) for name, size in integers.items()}


@oracle(event_ndim=2, workspace=_prices, check_bounds=False)
def assignment(
    scores, solution, price, open_price, distance, settled, matched, owner, before, tree
):
    """A column of its own for each row, of largest total score, (rows, columns), rows <= columns.

    -inf forbids a pair. Jonker and Volgenant's stages: columns choose rows (if as many), rows left
    over bid for columns, and for whom that ends nowhere, shortest augmenting paths.
    O(rows^2 columns). Throughout, no row gains (score less price) more by another column.
    """
    rows, columns = scores.shape
    if rows > columns:
        raise ValueError("assignment needs at least as many columns as rows: transpose the scores")
    for i in range(rows):
        matched[i] = -1
    for j in range(columns):
        price[j] = 0.0  # and stays, where nobody takes the column
        owner[j] = -1
    if rows == columns:  # every column is needed: it costs what its best row can pay
        for j in range(columns):
            price[j] = -np.inf
            before[j] = 0
        for i in range(rows):
            # Vectorised, as it has no branch. Without + 0 the compiler would store what has changed
            # under a mask, and the next load would have to wait for that.
            for j in range(columns):
                higher = scores[i, j] > price[j]
                price[j] = max(price[j], scores[i, j]) + 0.0
                before[j] = i if higher else before[j]
        for j in range(columns):
            if not -np.inf < price[j] < np.inf:
                raise ValueError("no assignment of finite score exists, or a score is inf")
            i = before[j]
            has = matched[i]
            owner[j] = i if has < 0 else -1
            matched[i] = j if has < 0 else has
    # A row takes its best column at the price at which its second best is as good; who had it bids
    # next. A few bids settle most; prices may then rise in small steps for long, and paths do not.
    pairs = columns // 2 * 2
    for row in range(rows):
        i = row
        for _ in range(8 if matched[row] < 0 else 0):
            j = k = 0
            best = second = best_odd = second_odd = -np.inf  # two by two, for one would wait
            for at in range(0, pairs, 2):
                x = scores[i, at] - price[at]
                y = scores[i, at + 1] - price[at + 1]
                j = at if x > best else j
                k = at + 1 if y > best_odd else k
                second = max(second, min(best, x))
                second_odd = max(second_odd, min(best_odd, y))
                best, best_odd = max(best, x), max(best_odd, y)
            if pairs < columns:
                x = scores[i, pairs] - price[pairs]
                j = pairs if x > best else j
                second = max(second, min(best, x))
                best = max(best, x)
            j = k if best_odd > best else j
            second = max(max(second, second_odd), min(best, best_odd))
            best = max(best, best_odd)
            if not -np.inf < best < np.inf:
                raise ValueError("no assignment of finite score exists, or a score is inf")
            loser = owner[j]
            if loser >= 0 and best == second:  # no bid is higher
                break
            price[j] = scores[i, j] - second  # inf if no other column is left
            owner[j] = i
            matched[i] = j
            if loser < 0:
                break
            matched[loser] = -1
            i = loser
    for free in range(rows):
        if matched[free] >= 0:
            continue
        for j in range(columns):
            distance[j] = np.inf
            open_price[j] = price[j]
        # Columns leave for the tree of shortest paths one by one: tree[:size], at distances
        # settled[:size]. A price of inf keeps them from being reached again.
        size, i, shift = 0, free, 0.0
        while True:
            for j in range(columns):  # vectorised, as above
                through = shift - scores[i, j] + open_price[j]
                nearer = through < distance[j]
                distance[j] = min(distance[j], through) + 0.0
                before[j] = i if nearer else before[j]
            a = b = c = d = np.inf  # four minima, for one would wait for itself
            quads = columns // 4 * 4
            for j in range(0, quads, 4):
                a, b = min(a, distance[j]), min(b, distance[j + 1])
                c, d = min(c, distance[j + 2]), min(d, distance[j + 3])
            for j in range(quads, columns):
                a = min(a, distance[j])
            reached = min(min(a, b), min(c, d))
            if not reached < np.inf:
                raise ValueError("no assignment of finite score exists, or a score is inf")
            last = 0
            while distance[last] != reached:
                last += 1
            i = owner[last]
            if i < 0:
                break
            tree[size], settled[size] = last, reached
            size += 1
            shift = reached + scores[i, last] - price[last]
            distance[last], open_price[last] = np.inf, np.inf
        for k in range(size):
            price[tree[k]] += reached - settled[k]
        while last >= 0:  # exchange along the path
            i = before[last]
            owner[last] = i
            matched[i], last = last, matched[i]
    for i in range(rows):
        solution[i, matched[i]] = 1
