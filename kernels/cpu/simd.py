"""Thirty-two lanes as one value: an explicit SIMD type for Numba.

``Vector(dtype)`` is LLVM's ``<32 x dtype>``: of float32 two AVX-512 registers, four of AVX2, eight
of SSE or NEON; LLVM splits it to fit, so the kernels are portable and their results do not depend
on the machine. The usual operators work lane by lane, scalars broadcast, and comparisons give masks
for ``select`` and ``any_lane``. The formulas of ``noise.py`` and ``philox.py`` are generic in
exactly these operations, so the same source serves NumPy arrays, scalars and vectors.

Written out rather than left to LLVM's auto-vectoriser: a value that lives in registers across
"perturb, solve, accumulate" needs no buffer, short loops are vectorised too (they are unrolled and
lost otherwise), and nothing depends on how an index happens to be typed.
"""

from __future__ import annotations

import operator

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core.codegen import get_host_cpu_features
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, overload, register_jitable, register_model
from numba.np.arrayobj import make_array

from ._piece import PIECE

LANES = 32

CHECK_BOUNDS = bool(config.BOUNDSCHECK)
"""With ``NUMBA_BOUNDSCHECK=1`` vector loads and stores are checked like every other index."""

_INT32 = ir.IntType(32)


def _has_avx512():
    """Whether code is compiled for a CPU with AVX-512."""
    features = config.CPU_FEATURES
    if features is None:
        features = get_host_cpu_features()
    return "+avx512f" in features.split(",")


MANY_REGISTERS = _has_avx512()
"""Whether registers hold sixteen values of thirty-two lanes: AVX-512 has 2 KB, AVX2 512 bytes."""

PART = LANES if MANY_REGISTERS else LANES // 2
"""Lanes that loops with many values at hand take at a time."""


class Vector(types.Type):
    """The Numba type of 32 lanes of ``dtype``; ``types.boolean`` makes a mask.

    Of other numbers of lanes there are loads, stores, operators, ``any_lane``, the primitives of
    ``bits.py`` and what has ``part`` in its name.
    """

    def __init__(self, dtype, lanes=LANES):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype} x {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        bits = 1 if fe_type.dtype is types.boolean else None
        element = ir.IntType(1) if bits else manager.lookup(fe_type.dtype).get_value_type()
        super().__init__(manager, fe_type, ir.VectorType(element, fe_type.lanes))


def splat(builder, scalar, lanes=LANES):
    """LLVM code for copies of a scalar."""
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
    )


def to_lanes(context, builder, value, from_type, vector):
    """LLVM code that brings a scalar or a vector to the type ``vector``."""
    if isinstance(from_type, Vector):
        return value
    return splat(builder, context.cast(builder, value, from_type, vector.dtype), vector.lanes)


def common_vector(*argument_types):
    """The type of the vectors among the arguments; None if they differ or there are none."""
    vectors = {a for a in argument_types if isinstance(a, Vector)}
    return vectors.pop() if len(vectors) == 1 else None


# --------------------------------------------------------------------------------- operators

_ARITHMETIC = {
    operator.add: ("fadd", "add", "add"),
    operator.sub: ("fsub", "sub", "sub"),
    operator.mul: ("fmul", "mul", "mul"),
    operator.truediv: ("fdiv", None, None),
    operator.and_: (None, "and_", "and_"),
    operator.or_: (None, "or_", "or_"),
    operator.xor: (None, "xor", "xor"),
    operator.lshift: (None, "shl", "shl"),
    operator.rshift: (None, "ashr", "lshr"),
}
_COMPARISON = {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}


def _kind(dtype):
    if isinstance(dtype, types.Float):
        return 0
    return 1 if dtype is not types.boolean and dtype.signed else 2


def _register_operator(function, is_comparison):
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            vector = common_vector(*args)
            if len(args) != 2 or vector is None:
                return None
            if not is_comparison and _ARITHMETIC[function][_kind(vector.dtype)] is None:
                return None
            result = Vector(types.boolean, vector.lanes) if is_comparison else vector
            return signature(result, *args)

    infer_global(function)(Template)

    def lower(context, builder, sig, args):
        vector = common_vector(*sig.args)
        a, b = (
            to_lanes(context, builder, x, t, vector) for x, t in zip(args, sig.args, strict=True)
        )
        kind = _kind(vector.dtype)
        if not is_comparison:
            return getattr(builder, _ARITHMETIC[function][kind])(a, b)
        compare = (builder.fcmp_ordered, builder.icmp_signed, builder.icmp_unsigned)[kind]
        return compare(_COMPARISON[function], a, b)

    for pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *pair)(lower)


for _function in _ARITHMETIC:
    _register_operator(_function, is_comparison=False)
for _function in _COMPARISON:
    _register_operator(_function, is_comparison=True)


@infer_global(operator.neg)
class _NegTemplate(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], *args) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _lower_neg(context, builder, sig, args):
    return builder.fneg(args[0]) if _kind(sig.args[0].dtype) == 0 else builder.neg(args[0])


# ----------------------------------------------------------------------------- memory and lanes


def _element_pointer(context, builder, array_type, array, index, pointee):
    data = make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


def _loading(lanes):
    """``load`` of so many lanes."""

    @intrinsic
    def read(typing_context, array, index):
        result = Vector(array.dtype, lanes)

        def codegen(context, builder, sig, args):
            llvm_type = context.get_value_type(result)
            pointer = _element_pointer(context, builder, sig.args[0], args[0], args[1], llvm_type)
            return builder.load(pointer, align=array.dtype.bitwidth // 8)

        return result(array, types.intp), codegen

    @register_jitable(**PIECE)
    def load(array, index):
        """Consecutive elements of a C-contiguous array, from the flat ``index`` on."""
        if index < 0 or index + lanes > array.size:
            raise IndexError("vector load out of bounds")
        return read(array, index)

    return load if CHECK_BOUNDS else read


load, load_part = _loading(LANES), _loading(PART)


@intrinsic
def _store(typing_context, array, index, vector):
    def codegen(context, builder, sig, args):
        pointer = _element_pointer(context, builder, sig.args[0], args[0], args[1], args[2].type)
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def _lanes(typing_context, vector):
    """How many lanes a vector has."""
    lanes = vector.lanes
    return types.intp(vector), lambda context, builder, sig, args: context.get_constant(
        types.intp, lanes
    )


@register_jitable(**PIECE)
def _checked_store(array, index, vector):
    if index < 0 or index + _lanes(vector) > array.size:
        raise IndexError("vector store out of bounds")
    _store(array, index, vector)


store = _checked_store if CHECK_BOUNDS else _store
"""Write lanes to consecutive elements of a C-contiguous array, from the flat ``index`` on."""


ROW_WIDTH = {types.int32: 4, types.float32: 4, types.float64: 8}
"""Entries of a row that ``lane_rows`` reads: sixteen bytes, and a cache line."""


@intrinsic
def _lane_rows(typing_context, table, row):
    width = ROW_WIDTH[table.dtype]
    result = types.UniTuple(Vector(table.dtype), width)

    def codegen(context, builder, sig, args):
        base = make_array(sig.args[0])(context, builder, args[0]).data
        row_type = ir.VectorType(context.get_value_type(table.dtype), width)
        index = ir.IntType(64)
        rows = []
        for lane in range(LANES):
            i = builder.sext(builder.extract_element(args[1], ir.Constant(_INT32, lane)), index)
            entry = builder.gep(base, [builder.mul(i, ir.Constant(index, width))])
            pointer = builder.bitcast(entry, row_type.as_pointer())
            rows.append(builder.load(pointer, align=table.dtype.bitwidth // 8))
        columns = _transposed(builder, rows, width)
        return context.make_tuple(builder, result, columns)

    return result(table, row), codegen


def row_width(like):
    """``ROW_WIDTH`` of an array's dtype."""
    raise NotImplementedError("compiled code only")


@overload(row_width, jit_options=PIECE)
def _(like):
    width = ROW_WIDTH[like.dtype]
    return lambda like: width


def _transposed(builder, rows, width):
    """LLVM code for the columns of rows of ``width`` entries.

    Blocks of ``width`` rows are transposed side by side, four narrow ones a register, by exchanging
    entries 1 apart, then 2, then 4: a shuffle each, where a gather is a load an entry.
    """
    size = 16 if width == 4 else width  # entries a register
    columns = []
    for first in range(0, LANES, size):
        blocks = [range(first + i, first + size, width) for i in range(width)]
        v = [_concatenated(builder, [rows[lane] for lane in lanes]) for lanes in blocks]
        distance = 1
        while distance < width:
            low = [size + (k ^ distance) if k & distance else k for k in range(size)]
            high = [size + k if k & distance else k ^ distance for k in range(size)]
            for i in range(width):
                j = i | distance
                if i != j:
                    v[i], v[j] = (_shuffled(builder, v[i], v[j], order) for order in (low, high))
            distance *= 2
        columns.append(v)
    return [_concatenated(builder, parts) for parts in zip(*columns, strict=True)]


def _concatenated(builder, vectors):
    """LLVM code for a power of two of vectors, end to end."""
    while len(vectors) > 1:
        order = range(2 * vectors[0].type.count)
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [_shuffled(builder, a, b, order) for a, b in pairs]
    return vectors[0]


def _shuffled(builder, a, b, order):
    mask = ir.Constant(ir.VectorType(_INT32, len(order)), list(order))
    return builder.shuffle_vector(a, b, mask)


@register_jitable(**PIECE)
def lane_rows(table, row):
    """The columns of ``table[row]``, a row a lane (a vector of int32), of ``ROW_WIDTH`` each."""
    if CHECK_BOUNDS and any_lane((row < np.int32(0)) | (row >= np.int32(table.shape[0]))):
        raise IndexError("table row out of bounds")
    return _lane_rows(table, row)


@intrinsic
def store_quad(typing_context, rows, i, a, b, c, d):
    """``rows[lane, i : i + 4] = a[lane], b[lane], c[lane], d[lane]`` in all lanes."""

    def codegen(context, builder, sig, args):
        array = make_array(sig.args[0])(context, builder, args[0])
        stride = builder.extract_value(array.shape, 1)
        at = args[1]
        four = ir.VectorType(args[2].type.element, 4)
        for first in range(0, LANES, 8):
            group = list(range(first, first + 8))
            x = [_shuffled(builder, v, v, group) for v in args[2:]]
            for half in range(2):  # lanes 4 half .. 4 half + 3 of the eight
                lanes = range(4 * half, 4 * half + 4)
                mixed = [k for lane in lanes for k in (lane, 8 + lane)]
                ab = _shuffled(builder, x[0], x[1], mixed)
                cd = _shuffled(builder, x[2], x[3], mixed)
                for lane in range(4):
                    pair = [2 * lane, 2 * lane + 1, 8 + 2 * lane, 8 + 2 * lane + 1]
                    quad = _shuffled(builder, ab, cd, pair)
                    pointer = builder.bitcast(builder.gep(array.data, [at]), four.as_pointer())
                    builder.store(quad, pointer, align=a.dtype.bitwidth // 8)
                    at = builder.add(at, stride)
        return context.get_dummy_value()

    return types.void(rows, types.intp, a, b, c, d), codegen


@intrinsic
def _own_column(typing_context, array, rows, step):
    result = Vector(array.dtype)

    def codegen(context, builder, sig, args):
        index = ir.IntType(64)
        width = ir.Constant(index, LANES)
        base, rows = (
            make_array(t)(context, builder, x).data
            for t, x in zip(sig.args[:2], args, strict=False)
        )
        # A pointer that all lanes share: the addresses of lanes are the same for every ``step``.
        base = builder.gep(base, [builder.mul(args[2], width)])
        vector = ir.Constant(context.get_value_type(result), ir.Undefined)
        for lane in range(LANES):
            number = ir.Constant(index, lane)
            row = builder.sext(builder.load(builder.gep(rows, [number])), index)
            entry = builder.load(builder.gep(base, [builder.add(builder.mul(row, width), number)]))
            vector = builder.insert_element(vector, entry, number)
        return vector

    return result(array, rows, types.intp), codegen


@register_jitable(**PIECE)
def own_column(array, rows, step):
    """``array[rows[lane] + step, lane]`` of an (n, 32) array.

    ``rows``, (32,) int32, is read from memory, where an entry is sooner at hand than in a register.
    """
    if CHECK_BOUNDS:
        i = load(rows, 0)
        if any_lane((i < np.int32(-step)) | (i >= np.int32(array.shape[0] - step))):
            raise IndexError("rows of lanes out of bounds")
    return _own_column(array, rows, step)


_CACHE_LINE = 64


@register_jitable
def lane_array(rows, columns, like):
    """An uninitialised (rows, columns) array of ``like``'s dtype that begins at a cache line.

    A vector load that straddles two lines costs two; Numba's own arrays begin at half a line.
    """
    flat = np.empty(rows * columns + _CACHE_LINE, like.dtype)
    skip = (-flat.ctypes.data % _CACHE_LINE) // flat.itemsize
    return flat[skip : skip + rows * columns].reshape((rows, columns))


def _broadcasting(lanes):
    """``broadcast`` to so many lanes."""

    def copies(typing_context, scalar):
        def codegen(context, builder, sig, args):
            return splat(builder, args[0], lanes)

        return Vector(scalar, lanes)(scalar), codegen

    return intrinsic(copies)


broadcast, broadcast_part = _broadcasting(LANES), _broadcasting(PART)
"""Copies of a scalar."""


@intrinsic
def lane_indices(typing_context):
    """(0, 1, ..., 31) as uint64."""
    result = Vector(types.uint64)

    def codegen(context, builder, sig, args):
        return ir.Constant(context.get_value_type(result), list(range(LANES)))

    return result(), codegen


@intrinsic
def part_indices(typing_context, like):
    """(0, 1, ..., PART - 1) of an array's dtype."""
    result = Vector(like.dtype, PART)

    def codegen(context, builder, sig, args):
        return ir.Constant(context.get_value_type(result), list(range(PART)))

    return result(like), codegen


_EVENS_FIRST = [*range(0, LANES, 2), *range(1, LANES, 2)]


@intrinsic
def evens_first(typing_context, x):
    """Lanes 0, 2, ..., 30, 1, 3, ..., 31; a scalar stays."""

    def codegen(context, builder, sig, args):
        if not isinstance(x, Vector):
            return args[0]
        return _shuffled(builder, args[0], args[0], _EVENS_FIRST)

    return x(x), codegen


@intrinsic
def low_words(typing_context, x):
    """The low 32 bits of uint64 lanes that are ``evens_first``, in order; or of a scalar.

    Registers of even and of odd lanes are interleaved, one shuffle each, where narrowing lanes in
    order takes two and a half.
    """
    is_vector = isinstance(x, Vector)
    result = Vector(types.uint32) if is_vector else types.uint32

    def codegen(context, builder, sig, args):
        if not is_vector:
            return builder.trunc(args[0], _INT32)
        halves = ir.VectorType(_INT32, LANES)
        first = range(LANES // 2)
        evens, odds = (
            builder.bitcast(_shuffled(builder, args[0], args[0], lanes), halves)
            for lanes in (first, [LANES // 2 + k for k in first])
        )
        return _shuffled(builder, evens, odds, [2 * k + n * LANES for k in first for n in (0, 1)])

    return result(x), codegen


@intrinsic
def smaller(typing_context, a, b):
    """The smaller of two vectors of reals that are not negative (nor NaN, nor -0), lane by lane.

    A ``select`` would do, but of one that is stored to where ``b`` was loaded from LLVM makes a
    masked store, which a later load must wait for on Zen 4. Bits of such float32 are ordered as
    they are, and the minimum of integers takes a cycle where that of reals takes two to four, on
    units that do not add. (There is none of 64 bits before AVX-512.)
    """

    def codegen(context, builder, sig, args):
        if a.dtype == types.float64:
            return call_llvm(builder, "minnum", args, fastmath=("nnan", "nsz"))
        words = ir.VectorType(_INT32, a.lanes)
        least = call_llvm(builder, "smin", [builder.bitcast(x, words) for x in args])
        return builder.bitcast(least, args[0].type)

    return a(a, b), codegen


@intrinsic
def larger(typing_context, a, b):
    """The larger of two vectors of float64 that are not NaN, lane by lane."""

    def codegen(context, builder, sig, args):
        return call_llvm(builder, "maxnum", args, fastmath=("nnan", "nsz"))

    return a(a, b), codegen


@intrinsic
def any_lane(typing_context, mask):
    """Whether the mask holds in any lane."""

    def codegen(context, builder, sig, args):
        word = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", word, ir.Constant(word.type, 0))

    return types.boolean(mask), codegen


@intrinsic
def count_lanes(typing_context, mask):
    """In how many lanes the mask holds."""

    def codegen(context, builder, sig, args):
        word = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.zext(builder.ctpop(word), ir.IntType(64))

    return types.intp(mask), codegen


@intrinsic
def lane_bits(typing_context, mask):
    """The mask as an integer, lane ``i`` being bit ``i``."""

    def codegen(context, builder, sig, args):
        word = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.zext(word, ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic
def lowest_bit(typing_context, bits):
    """The number of the lowest bit that is set."""

    def codegen(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def tree_sum(typing_context, vector):
    """The sum of the lanes over a fixed tree: lanes 16 apart, then 8, 4, 2 and 1 apart."""

    def codegen(context, builder, sig, args):
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            mask = ir.VectorType(_INT32, width)
            undefined = ir.Constant(value.type, ir.Undefined)
            low = builder.shuffle_vector(value, undefined, ir.Constant(mask, list(range(width))))
            high = builder.shuffle_vector(
                value, undefined, ir.Constant(mask, list(range(width, 2 * width)))
            )
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(_INT32, 0))

    return vector.dtype(vector), codegen


@intrinsic
def four_tree_sums(typing_context, a, b, c, d):
    """``tree_sum`` of four vectors at once: the same additions, half the instructions."""
    element = a.dtype
    result = types.UniTuple(element, 4)

    def codegen(context, builder, sig, args):
        half = LANES // 2
        vectors = []
        for x in args:
            undefined = ir.Constant(x.type, ir.Undefined)
            low = _shuffled(builder, x, undefined, list(range(half)))
            high = _shuffled(builder, x, undefined, list(range(half, LANES)))
            vectors.append(builder.fadd(low, high))
        # Each vector of 16 holds groups that are still to be summed; halving the groups makes room
        # for those of a second vector.
        width = half
        while len(vectors) > 1:
            groups = [range(g, g + width) for g in range(0, half, width)]
            low = [k for g in groups for k in g[: width // 2]]
            high = [k for g in groups for k in g[width // 2 :]]
            vectors = [
                builder.fadd(
                    _shuffled(builder, x, y, low + [half + k for k in low]),
                    _shuffled(builder, x, y, high + [half + k for k in high]),
                )
                for x, y in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            width //= 2
        (value,) = vectors
        while width > 1:
            width //= 2
            distance = [k ^ width for k in range(half)]
            value = builder.fadd(value, _shuffled(builder, value, value, distance))
        sums = [builder.extract_element(value, ir.Constant(_INT32, 4 * k)) for k in range(4)]
        return context.make_tuple(builder, result, sums)

    return result(a, a, a, a), codegen


@intrinsic
def sum_integers(typing_context, vector):
    """The sum of integer lanes."""

    def codegen(context, builder, sig, args):
        element = args[0].type.element
        name = f"llvm.vector.reduce.add.v{LANES}i{element.width}"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(element, [args[0].type]), name)
        return builder.call(function, args)

    return vector.dtype(vector), codegen


@intrinsic
def swap_neighbours(typing_context, vector):
    """Lanes 2 j and 2 j + 1 exchanged."""

    def codegen(context, builder, sig, args):
        order = ir.Constant(ir.VectorType(_INT32, LANES), [lane ^ 1 for lane in range(LANES)])
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), order)

    return vector(vector), codegen


# --------------------------------------------------------- the primitives of bits.py, for lanes


def convert(context, builder, value, from_dtype, to_dtype):
    """LLVM code for a lane-wise numeric conversion (truncation toward zero for float to int)."""
    target = ir.VectorType(context.get_value_type(to_dtype), value.type.count)
    from_kind, to_kind = _kind(from_dtype), _kind(to_dtype)
    if from_kind == 0 and to_kind == 0:
        wider = to_dtype.bitwidth > from_dtype.bitwidth
        if to_dtype.bitwidth == from_dtype.bitwidth:
            return value
        return builder.fpext(value, target) if wider else builder.fptrunc(value, target)
    if from_kind == 0:
        return (builder.fptosi if to_kind == 1 else builder.fptoui)(value, target)
    if to_kind == 0:
        return (builder.sitofp if from_kind == 1 else builder.uitofp)(value, target)
    if to_dtype.bitwidth == from_dtype.bitwidth:
        return value
    if to_dtype.bitwidth < from_dtype.bitwidth:
        return builder.trunc(value, target)
    return (builder.sext if from_kind == 1 else builder.zext)(value, target)


def call_llvm(builder, name, args, fastmath=()):
    """Call an LLVM intrinsic of one type throughout, real or integer, on scalars or on lanes."""
    result = args[0].type
    element = result.element if isinstance(result, ir.VectorType) else result
    lanes = f"v{result.count}" if isinstance(result, ir.VectorType) else ""
    full_name = f"llvm.{name}.{lanes}{element.intrinsic_name}"
    function = builder.module.globals.get(full_name)
    if function is None:
        arguments = [x.type for x in args]
        function = ir.Function(builder.module, ir.FunctionType(result, arguments), full_name)
    return builder.call(function, args, fastmath=fastmath)


NUMPY_TO_NUMBA = {
    np.float32: types.float32,
    np.float64: types.float64,
    np.int32: types.int32,
    np.int64: types.int64,
    np.uint32: types.uint32,
    np.uint64: types.uint64,
}
