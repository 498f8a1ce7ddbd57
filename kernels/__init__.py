"""What must be fast: raw arrays, sizes and seeds, no framework and no autograd.

``philox`` and ``noise`` define the random numbers, ``reference`` every kernel in plain NumPy, and
``cpu`` and ``cuda`` the fused kernels that equal it bit for bit. ``kernels.argmax(...)`` and its
like launch them on arrays of any framework; the compilers behind them are imported at a first call.
"""

from .raw import argmax as argmax
from .raw import grid_path as grid_path
from .raw import ranks as ranks
from .raw import topk as topk
