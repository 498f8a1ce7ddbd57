// The exact perturbed argmax: a trapezoid rule over the value of the winner. Twin of
// kernels/exact/argmax.py, which has the formulas; with X_i = x_i + Z_i / a_i, u_i = a_i (t - x_i),
// r_i = a_i r(u_i), r'_i = a_i^2 r'(u_i) and e = prod_j G(u_j),
//
//     VALUE     y_i = int r_i e dt
//     MOMENTS   z_i = int u_i r_i e dt, besides
//     PRODUCT   (J v)_k      = -int (r_k S_v + r'_k v_k) e dt,    S_v = sum_i v_i r_i
//     SCALE     d<v, y>/db_k = -int (u_k (r_k S_v + r'_k v_k) + a_k r_k v_k) e dt,    b = 1 / a
//     SECOND    int (r_k (S_v S_w + S'_vw) + r'_k (v_k S_w + w_k S_v) + r''_k v_k w_k) e dt
//     JACOBIAN  J_ik = -int r_i r_k e dt,    J_ii = -sum_{k != i} J_ik
//
// **Mapping.** `locate_winners`: a block is a row; it finds x, a, and where the nodes are.
// `exact_argmax`: a block is a part of a row, every parts-th tile of 32 nodes. It goes twice over
// the coordinates: for e and the sums S a lane is a node and warps share the coordinates; for the
// integrals a thread is a coordinate and goes over the nodes. The law is evaluated twice, so that
// nothing of size d x 32 is stored. `exact_argmax_jacobian`: a block is BAND rows of the Jacobian.
//
// **Order of sums.** Over coordinates: chunks of 64 in the row's precision, chunk c in strand c % 8
// in float64, strands in order. Over nodes: a tile in the row's precision, tiles in float64, in
// order. No launch changes them, and nothing is added atomically.
//
// **Memory.** x, a and five numbers a row; `out` has a slot a part (parts = 1 up to d = 1024).
#include "exact.cuh"

constexpr int CHUNK_OF_ROW = 64;
constexpr int STRANDS = 8;
constexpr int BAND = 16;

// Where the nodes of a row are: t = first - step * (0, 1, 2, ...), tiles of NODES of them.
struct Nodes {
    double unit, step, first, reach;
    i64 tiles;

    __device__ explicit Nodes(const double* nodes)
        : unit(nodes[0]), step(nodes[1]), first(nodes[2]), reach(nodes[3]), tiles(i64(nodes[4])) {}
    __device__ double at(i64 tile, int node) const {
        return node * -step + (first - step * NODES * double(tile));
    }
};

// x and a of a row, in units of its smallest temperature, and its nodes. `rules`, (num_rules, 3),
// are for 1, 2, 4, ... coordinates. A row with an infinite top has no nodes: its first largest
// coordinate wins for sure.
template <class Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    locate_winners(const Real* theta, const Real* epsilon, int d, int per_coordinate,
                   const double* rules, int num_rules, Real* x, Real* a, double* nodes,
                   int is_value, i64 size_of_row, double* out) {
    __shared__ double room[MAX_THREADS / WARP];
    const double INFINITE = bits::infinity<double>();
    const i64 b = blockIdx.x;
    theta += b * d, x += b * d, a += b * d, nodes += 5 * b;
    epsilon += b * (per_coordinate ? d : 1);
    const auto temperature = [&](int i) { return double(epsilon[per_coordinate ? i : 0]); };
    double top = -INFINITE, coldest = INFINITE;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        top = max(top, double(theta[i]));
        if (theta[i] > -INFINITE) coldest = min(coldest, temperature(i));
    }
    top = largest_of_block(top, room);
    const double unit = smallest_of_block(coldest, room);
    if (top == INFINITE || top == -INFINITE) {
        if (threadIdx.x > 0) return;
        nodes[0] = 1, nodes[1] = nodes[2] = nodes[3] = nodes[4] = 0;
        int winner = 0;
        while (winner < d - 1 && double(theta[winner]) != top) ++winner;
        if (is_value) out[b * size_of_row + winner] = 1;
        return;
    }
    const double low = rules[1], most = rules[3 * num_rules - 1];
    double bottom = per_coordinate ? -INFINITE : low;
    if (per_coordinate) {
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            if (theta[i] > -INFINITE)
                bottom = max(bottom, (double(theta[i]) - top + low * temperature(i)) / unit);
        bottom = largest_of_block(bottom, room);
    }
    int n = 0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const double scale = temperature(i) / unit;
        const Real location = (theta[i] - Real(top)) / Real(unit);
        const bool may_win = location + most * scale > bottom;
        x[i] = may_win ? location : Real(-INFINITE);
        a[i] = may_win ? Real(1 / scale) : Real(1);
        n += may_win;
    }
    n = sum_of_block(n, room);
    int which = 0;
    while (1 << which < n) ++which;
    const double step = rules[3 * which], reach = rules[3 * which + 2];
    double first = bottom;
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        first = max(first, double(x[i]) + reach / double(a[i]));
    first = step * ceil(largest_of_block(first, room) / step);
    if (threadIdx.x == 0) {
        nodes[0] = unit, nodes[1] = step, nodes[2] = first, nodes[3] = reach;
        nodes[4] = ceil((first - bottom) / (step * NODES));
    }
}

// A tile in shared memory: its nodes, e times the step at each, and the sums over coordinates.
template <class Real, int OPERATION>
struct Tile {
    static constexpr int SUMS = OPERATION == SECOND                          ? 4
                                : OPERATION == PRODUCT || OPERATION == SCALE ? 2
                                                                             : 1;
    double strands[STRANDS][SUMS][NODES];
    Real t[NODES];
    Real weight[NODES];
    Real sums[SUMS][NODES];  // S_v, S_w, S'_vw at 1, 2, 3

    // By all threads of a block; v and w are read where the operation has them.
    template <int FAMILY>
    __device__ void solve(const Real* x, const Real* a, const Real* v, const Real* w, int d,
                          const Nodes& nodes, i64 tile) {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int used = min(STRANDS, (d + CHUNK_OF_ROW - 1) / CHUNK_OF_ROW);
        const Real t_here = Real(nodes.at(tile, lane));
        const Real lowest = Real(nodes.at(tile, NODES - 1)), reach = Real(nodes.reach);
        for (int strand = warp; strand < used; strand += blockDim.x / WARP) {
            double total[SUMS] = {};
            for (int begin = strand * CHUNK_OF_ROW; begin < d; begin += STRANDS * CHUNK_OF_ROW) {
                Real chunk[SUMS] = {};
                for (int j = begin; j < min(d, begin + CHUNK_OF_ROW); ++j) {
                    if (is_passed_over(x[j], a[j], lowest, reach)) continue;
                    const Real aj = a[j], u = (t_here - x[j]) * aj;
                    const auto [minus_log, r] = laws::hazard<FAMILY>(u);
                    chunk[0] += minus_log;
                    if constexpr (SUMS > 1) chunk[1] = bits::fma(v[j] * aj, r, chunk[1]);
                    if constexpr (SUMS > 2) {
                        const Real slope = laws::hazard_slope<FAMILY>(u, r);
                        chunk[2] = bits::fma(w[j] * aj, r, chunk[2]);
                        chunk[3] = bits::fma(v[j] * w[j] * aj * aj, slope, chunk[3]);
                    }
                }
                for (int k = 0; k < SUMS; ++k) total[k] += double(chunk[k]);
            }
            for (int k = 0; k < SUMS; ++k) strands[strand][k][lane] = total[k];
        }
        __syncthreads();
        if (warp == 0) {
            double total[SUMS] = {};
            for (int strand = 0; strand < used; ++strand)
                for (int k = 0; k < SUMS; ++k) total[k] += strands[strand][k][lane];
            t[lane] = t_here;
            weight[lane] = Real(laws::exp(-total[0]) * nodes.step);
            for (int k = 1; k < SUMS; ++k) sums[k][lane] = Real(total[k]);
        }
        __syncthreads();
    }

    // Whether a coordinate is below every node, to within the tolerance; those that cannot win at
    // all are at -inf.
    __device__ static bool is_passed_over(Real x, Real a, Real lowest, Real reach) {
        return (lowest - x) * a > reach;
    }
    __device__ bool is_passed_over(Real x, Real a, const Nodes& nodes) const {
        return is_passed_over(x, a, t[NODES - 1], Real(nodes.reach));
    }

    // Whether what lies below is negligible.
    __device__ bool is_last(double negligible, const Nodes& nodes) const {
        return double(weight[NODES - 1]) <= negligible * nodes.step;
    }
};

// The integrand over e of a coordinate; a, v and w are its own.
template <int FAMILY, int OPERATION, class Real>
__device__ inline Real integrand(const Tile<Real, OPERATION>& tile, int node, Real u, Real a,
                                 Real v, Real w) {
    const Real r = laws::hazard_alone<FAMILY>(u);
    if constexpr (OPERATION <= MOMENTS) {
        return r * a;
    } else {
        Real slope = laws::hazard_slope<FAMILY>(u, r);
        const Real s_v = tile.sums[1][node];
        if constexpr (OPERATION == SECOND) {
            const Real s_w = tile.sums[2][node], s_vw = tile.sums[3][node];
            const Real bend = laws::hazard_bend<FAMILY>(u, r) * (a * a * a * v * w);
            slope = slope * (a * a);
            return bits::fma(r * a, bits::fma(s_v, s_w, s_vw),
                             bits::fma(slope, s_w * v + s_v * w, bend));
        } else {
            const Real product = -bits::fma(slope, a * a * v, r * a * s_v);
            if constexpr (OPERATION == PRODUCT) return product;
            return bits::fma(u, product, r * (-a * a * v));
        }
    }
}

// Integrals of a row, as `locate_winners` left it; v and w are `stride` apart (d, or 0 where rows
// share them). `out`, (rows, parts, 1 or 2 slots, d), is zero before.
template <class Real, int FAMILY, int OPERATION>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    exact_argmax(const Real* x, const Real* a, const double* nodes_of_rows, int d, int parts,
                 double negligible, const Real* v, i64 stride_of_v, const Real* w, i64 stride_of_w,
                 double* out) {
    __shared__ Tile<Real, OPERATION> tile;
    const i64 b = blockIdx.x / parts;
    const int part = blockIdx.x % parts;
    const Nodes nodes(nodes_of_rows + 5 * b);
    x += b * d, a += b * d, v += b * stride_of_v, w += b * stride_of_w;
    out += i64(blockIdx.x) * (OPERATION == MOMENTS ? 2 : 1) * d;
    for (i64 k = part; k < nodes.tiles; k += parts) {
        tile.template solve<FAMILY>(x, a, v, w, d, nodes, k);
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            if (tile.is_passed_over(x[i], a[i], nodes)) continue;
            const Real vi = OPERATION >= PRODUCT ? v[i] : Real(0);
            const Real wi = OPERATION == SECOND ? w[i] : Real(0);
            Real total = 0, moment = 0;
#pragma unroll 2
            for (int node = 0; node < NODES; ++node) {
                const Real u = (tile.t[node] - x[i]) * a[i];
                const Real term = integrand<FAMILY>(tile, node, u, a[i], vi, wi);
                total = bits::fma(tile.weight[node], term, total);
                if constexpr (OPERATION == MOMENTS)
                    moment = bits::fma(tile.weight[node], u * term, moment);
            }
            out[i] += double(total);
            if constexpr (OPERATION == MOMENTS) out[d + i] += double(moment);
        }
        if (tile.is_last(negligible, nodes)) break;
    }
    if constexpr (OPERATION >= PRODUCT)
        for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] *= per_unit(OPERATION, nodes.unit);
}

// BAND rows of the Jacobian, (rows, d, d), zero before: hazards of the band are shared, a thread is
// a column. J_ik and J_ki have the same bits.
template <class Real, int FAMILY>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    exact_argmax_jacobian(const Real* x, const Real* a, const double* nodes_of_rows, int d,
                          double negligible, double* out) {
    __shared__ Tile<Real, JACOBIAN> tile;
    __shared__ Real hazards[BAND][NODES];
    const int bands = (d + BAND - 1) / BAND;
    const i64 b = blockIdx.x / bands;
    const int begin = blockIdx.x % bands * BAND, height = min(BAND, d - begin);
    const Nodes nodes(nodes_of_rows + 5 * b);
    x += b * d, a += b * d, out += (b * d + begin) * d;
    const auto hazard_at = [&](int i, int node) {
        return laws::hazard_alone<FAMILY>((tile.t[node] - x[i]) * a[i]) * a[i];
    };
    for (i64 k = 0; k < nodes.tiles; ++k) {
        tile.template solve<FAMILY>(x, a, nullptr, nullptr, d, nodes, k);
        for (int at = threadIdx.x; at < height * NODES; at += blockDim.x) {
            const int i = begin + at / NODES, node = at % NODES;
            const bool out_of_it = tile.is_passed_over(x[i], a[i], nodes);
            hazards[at / NODES][node] = out_of_it ? Real(0) : hazard_at(i, node);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            if (tile.is_passed_over(x[i], a[i], nodes)) continue;
            Real sums[BAND] = {};
#pragma unroll 2
            for (int node = 0; node < NODES; ++node) {
                const Real r = hazard_at(i, node);
#pragma unroll
                for (int row = 0; row < BAND; ++row)
                    if (row < height)
                        sums[row] = bits::fma(tile.weight[node], r * hazards[row][node], sums[row]);
            }
#pragma unroll
            for (int row = 0; row < BAND; ++row)
                if (row < height && begin + row != i)
                    out[i64(row) * d + i] -= double(sums[row]) / nodes.unit;
        }
        if (tile.is_last(negligible, nodes)) break;
    }
    __syncthreads();
    for (int row = threadIdx.x / WARP; row < height; row += blockDim.x / WARP) {
        double others = 0;
        for (int i = threadIdx.x % WARP; i < d; i += WARP)
            if (i != begin + row) others += out[i64(row) * d + i];
        others = tree_sum(others);
        if (threadIdx.x % WARP == 0) out[i64(row) * d + begin + row] = -others;
    }
}
