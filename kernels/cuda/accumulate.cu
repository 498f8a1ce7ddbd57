// Accumulate: what solved samples add to the sums of their row. Twin of kernels/cpu/sums.py.
//
//     vjp        sums[0] = sum a s          sums[1] = sum (a s)^2
//     jvp        sums[0] = sum y b          sums[1], [2] = sum X B, X^2      b = <s, t>
//     jacobian   sums[0] = sum y s^T        sums[1], [2] = sum X B, X^2
//     moments    sums[0] = sum y w          sums[1] = sum y w z              w = 1 or p
//     maximum    sums[0] = sum <y, p>       sums[1] = sum <y, p>^2
//
// Scores s and noise z are drawn again, never stored. The last entry (row) of jvp (jacobian) is of
// y = 1. kernels/cpu/fused.py and sums.py say what the sums are for, and of what in pairs.
//
// Mapping. A lane is a sample, a warp a quad of coordinates (jvp: a coordinate; maximum: a row) and
// a strand of a row, whose chunks it takes in order. So every sum has one owner, and its order is
// fixed (accumulate.cuh). `strands` is (rows, parts, slots, size) float64 with parts = min(16,
// chunks); add_strands joins them where there are several.
#include "accumulate.cuh"

constexpr int MAX_THREADS = 256;

// Write a quad's sums to a strand, or add them: `lanes` is what four_tree_sums left.
template <bool ADD>
__device__ inline void put_quad(double* strand, int q, int size, double lanes) {
    const int i = 4 * q + coordinate_of_lane();
    if (threadIdx.x % 8 == 0 && i < size) strand[i] = ADD ? strand[i] + lanes : lanes;
}

// weights: a, (rows, M).
template <class Draw, bool SQUARES, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, Draw::min_blocks)
    vjp(Rows<Real> rows, const Real* weights, int parts, int groups, double* strands) {
    const Place place(parts, groups);
    const int d = rows.d, lane = threadIdx.x % WARP;
    const i64 num_samples = rows.num_samples;
    const auto noise = noise_of<Draw>(rows, place.row);
    const Scale<Draw> scale(rows, place.row);
    const Real* a = weights + place.row * num_samples;
    double* strand = strands + (place.row * parts + place.part) * (SQUARES ? 2 : 1) * d;
    for (int q = place.first; q < quads_of(d); q += place.step) {
        const Quad<Real> e = scale.quad(q);
        double total = 0, total_of_squares = 0;
        for (i64 m = i64(place.part) * CHUNK; m < num_samples; m += i64(parts) * CHUNK) {
            const i64 end = min(m + CHUNK, num_samples);
            Quad<Real> sums = {}, squares = {};
            for (i64 at = m + lane; at - lane < end; at += WARP) {
                const Real weight = at < end ? a[at] : Real(0);
                const Quad<Real> s = noise.scores(q, rows.first_sample + u32(at), e);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    sums[k] = bits::fma(weight, s[k], sums[k]);
                    if constexpr (SQUARES) {
                        const Real x = of_pair<Draw::paired>(weight * s[k]);
                        squares[k] = bits::fma(x, x, squares[k]);
                    }
                }
            }
            total += double(four_tree_sums(sums));
            if constexpr (SQUARES) total_of_squares += double(four_tree_sums(squares));
        }
        put_quad<false>(strand, q, d, total);
        if constexpr (SQUARES) put_quad<false>(strand + d, q, d, total_of_squares);
    }
}

// products[b, m] = <s_m, t>, coordinates in order. A thread is a sample.
template <class Draw, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    score_products(Rows<Real> rows, const Real* t, int batches, Real* products) {
    const int d = rows.d;
    const i64 b = blockIdx.x / batches;
    const i64 m = i64(blockIdx.x % batches) * blockDim.x + threadIdx.x;
    if (m >= rows.num_samples) return;
    const auto noise = noise_of<Draw>(rows, b);
    const Scale<Draw> scale(rows, b);
    Real product = 0;
    for (int q = 0; q < rows.quads(); ++q) {
        const Quad<Real> s = noise.scores(q, rows.first_sample + u32(m), scale.quad(q));
#pragma unroll
        for (int k = 0; k < 4; ++k)
            if (4 * q + k < d) product = bits::fma(t[b * d + 4 * q + k], s[k], product);
    }
    products[b * rows.num_samples + m] = product;
}

// products: b, (rows, M). A warp is a coordinate; entry d is of y = 1.
template <class Real, class Solutions, bool PAIRED, bool SQUARES>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    jvp(const int* solutions, const Real* products, int d, i64 num_samples, Real pull, int parts,
        int groups, double* strands) {
    constexpr int SLOTS = SQUARES ? 3 : 1;
    const Place place(parts, groups);
    const int lane = threadIdx.x % WARP;
    const Solutions y(solutions, place.row, num_samples, d);
    const Real* b = products + place.row * num_samples;
    double* strand = strands + (place.row * parts + place.part) * SLOTS * (d + 1);
    for (int i = place.first; i <= d; i += place.step) {
        double totals[3] = {};
        for (i64 m = i64(place.part) * CHUNK; m < num_samples; m += i64(parts) * CHUNK) {
            const i64 end = min(m + CHUNK, num_samples);
            Real sums[3] = {};
            for (i64 at = m + lane; at - lane < end; at += WARP) {
                const bool exists = at < end;
                const Real product = exists ? b[at] : Real(0);
                if (i == d) {
                    add_ones<PAIRED, SQUARES>(product, sums);
                } else {
                    const Real x = exists ? Real(y.at(at, i)) : Real(0);
                    add_row<PAIRED, SQUARES>(x, product, pull, sums);
                }
            }
#pragma unroll
            for (int slot = 0; slot < SLOTS; ++slot) totals[slot] += double(tree_sum(sums[slot]));
        }
        if (lane == 0)
            for (int slot = 0; slot < SLOTS; ++slot) strand[slot * (d + 1) + i] += totals[slot];
    }
}

// A warp is a quad of scores, for all of y: `strands` has entry (i, k), of y_i s_k,
// at i d + k.
template <class Draw, class Solutions, bool SQUARES, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    jacobian(Rows<Real> rows, const int* solutions, Real pull, int parts, int groups,
             double* strands) {
    constexpr int SLOTS = SQUARES ? 3 : 1, STEPS = CHUNK / WARP;
    const Place place(parts, groups);
    const int d = rows.d, lane = threadIdx.x % WARP;
    const i64 num_samples = rows.num_samples, size = i64(d + 1) * d;
    const auto noise = noise_of<Draw>(rows, place.row);
    const Scale<Draw> scale(rows, place.row);
    const Solutions y(solutions, place.row, num_samples, d);
    double* strand = strands + (place.row * parts + place.part) * SLOTS * size;
    for (int q = place.first; q < quads_of(d); q += place.step) {
        const Quad<Real> e = scale.quad(q);
        const int mine = 4 * q + coordinate_of_lane();
        for (i64 m = i64(place.part) * CHUNK; m < num_samples; m += i64(parts) * CHUNK) {
            const i64 end = min(m + CHUNK, num_samples);
            Quad<Real> s[STEPS];
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const i64 at = m + step * WARP + lane;
                s[step] = at < end ? noise.scores(q, rows.first_sample + u32(at), e) : Quad<Real>{};
            }
            for (int i = 0; i <= d; ++i) {
                Quad<Real> sums[3] = {};
                bool any = i == d;
#pragma unroll
                for (int step = 0; step < STEPS; ++step) {
                    const i64 at = m + step * WARP + lane;
                    const int chosen = i < d && at < end ? y.at(at, i) : 0;
                    any |= chosen != 0;
#pragma unroll
                    for (int k = 0; k < 4; ++k) {
                        Real terms[3] = {sums[0][k], sums[1][k], sums[2][k]};
                        if (i == d)
                            add_ones<Draw::paired, SQUARES>(s[step][k], terms);
                        else
                            add_row<Draw::paired, SQUARES>(Real(chosen), s[step][k], pull, terms);
                        for (int slot = 0; slot < SLOTS; ++slot) sums[slot][k] = terms[slot];
                    }
                }
                // Where nobody has chosen i, all sums are zero: nothing to add.
                if (!__any_sync(ALL_LANES, any)) continue;
#pragma unroll
                for (int slot = 0; slot < SLOTS; ++slot) {
                    const double tree = double(four_tree_sums(sums[slot]));
                    if (lane % 8 == 0 && mine < d) strand[slot * size + i64(i) * d + mine] += tree;
                }
            }
        }
    }
}

// rows.scores: what prepare made. A warp is a quad.
template <class Draw, class Solutions, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    moments(Rows<Real> rows, const int* solutions, int parts, int groups, double* strands) {
    const Place place(parts, groups);
    const int d = rows.d, lane = threadIdx.x % WARP;
    const i64 num_samples = rows.num_samples;
    const auto noise = noise_of<Draw>(rows, place.row);
    const Scale<Draw> scale(rows, place.row);
    const Solutions y(solutions, place.row, num_samples, d);
    const auto* theta = rows.quads_of_row(place.row);
    double* strand = strands + (place.row * parts + place.part) * 2 * d;
    for (int q = place.first; q < rows.quads(); q += place.step) {
        const Quad<Real> e = scale.quad(q), scores_of_quad = theta[q];
        double total = 0, total_with_z = 0;
        for (i64 m = i64(place.part) * CHUNK; m < num_samples; m += i64(parts) * CHUNK) {
            const i64 end = min(m + CHUNK, num_samples);
            Quad<Real> first = {}, second = {};
            for (i64 at = m + lane; at - lane < end; at += WARP) {
                const Quad<Real> z = noise.decision(q, rows.first_sample + u32(at));
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const bool exists = at < end && 4 * q + k < d;
                    Real x = exists ? Real(y.at(at, 4 * q + k)) : Real(0);
                    if (Draw::kind == MULTIPLICATIVE &&
                        x != 0)  // what is not chosen may be infinite
                        x = x * perturbed<Draw>(scores_of_quad[k], e[k], z[k]);
                    first[k] += x;
                    second[k] = bits::fma(x, z[k], second[k]);
                }
            }
            total += double(four_tree_sums(first));
            total_with_z += double(four_tree_sums(second));
        }
        put_quad<true>(strand, q, d, total);
        put_quad<true>(strand + d, q, d, total_with_z);
    }
}

// values: <y, p> of every sample, (rows, M). A warp is a row's strand; size is 1.
template <bool PAIRED>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    maximum(const double* values, i64 rows, i64 num_samples, int parts, double* strands) {
    const i64 strand = (i64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (strand >= rows * parts) return;
    const int lane = threadIdx.x % WARP, part = int(strand % parts);
    const double* value = values + strand / parts * num_samples;
    double total = 0, total_of_squares = 0;
    for (i64 m = i64(part) * CHUNK; m < num_samples; m += i64(parts) * CHUNK) {
        const i64 end = min(m + CHUNK, num_samples);
        double sum = 0, squares = 0;
        for (i64 at = m + lane; at - lane < end; at += WARP) {
            const double x = at < end ? value[at] : 0.0;
            const double pair = of_pair<PAIRED>(x);
            sum += x;
            squares = bits::fma(pair, pair, squares);
        }
        total += tree_sum(sum);
        total_of_squares += tree_sum(squares);
    }
    if (lane == 0) {
        strands[2 * strand] += total;
        strands[2 * strand + 1] += total_of_squares;
    }
}

// totals[b, j] = sum_part strands[b, part, j], in order. A thread is an entry.
__global__ void __launch_bounds__(MAX_THREADS, 1)
    add_strands(const double* strands, i64 rows, int parts, i64 size, double* totals) {
    const i64 entry = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (entry >= rows * size) return;
    const double* of_row = strands + entry / size * parts * size + entry % size;
    double total = 0;
    for (int part = 0; part < parts; ++part) total += of_row[part * size];
    totals[entry] = total;
}
