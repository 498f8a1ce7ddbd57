"""Exact expectations: no sampling, an error near rounding, and less work than a hundred samples.

For independent noise of CDF ``G``, density ``f`` and reverse hazard ``r = f / G``, the chance that
a coordinate wins, is among the k largest, or outranks another is an integral over one variable, the
value ``t`` of the coordinate (MATH: section 4). Integrands are analytic and decay fast, so the
plain trapezoid rule converges geometrically: tens of nodes do what no number of samples can.

    tails32.py, tails64.py   exponential and Mills' ratio, in fixed polynomials
    laws.py                  the noise families in terms of these, lane by lane
    nodes.py                 where integrands live and how fine the nodes must be for an error
    argmax.py topk.py ranks.py   one oracle a file
    launch.py                rows over threads
"""
