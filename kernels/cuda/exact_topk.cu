// Exact top-k: the chance to be among the k largest, by a dynamic programme at every node. Twin of
// kernels/exact/topk.py:
//
//     y_i = int f_i B_i dt,    B_i(t) = P(#{j != i : X_j > t} < k),    z_i = int u_i f_i B_i dt
//
// With q_j = P(X_j > t), c_n the chance that exactly n of the coordinates before i exceed t, and
// b_n that less than k - n of those after do,
//
//     B_i = sum_n c_n b_n
//     c_n <- c_n + q_i (c_{n-1} - c_n)
//     b_n <- b_n + q_i (b_{n+1} - b_n)
//
// and derivatives along v and w are the same on truncated Taylor numbers.
//
// **Mapping.** `settle`: a block is a row; it finds what is in or out for sure, counting who
// exceeds whom, and puts the others in front. `exact_topk`: a warp is a part of a row, every
// parts-th tile of 32 nodes; a lane is a node and has its own programme. Laws are evaluated again
// at each of its three passes, so that only chances are stored.
//
// **Order of sums.** float64; the tree over the nodes of a tile, tiles in order, parts in order.
// **Memory.** 512 sqrt(d) min(k, d - k) bytes a warp, times 2 for a derivative, 4 for SECOND.
#include "exact.cuh"

// What `settle` leaves of a row: n coordinates to judge, of which k are in; of -X if mirrored.
struct Judged {
    int n, k, mirrored;
    i64 tiles;
    double unit, step, first, top;

    __device__ void store(double* to) const {
        to[0] = n, to[1] = k, to[2] = mirrored, to[3] = double(tiles);
        to[4] = unit, to[5] = step, to[6] = first, to[7] = top;
    }
    __device__ static Judged load(const double* from) {
        return {int(from[0]), int(from[1]), int(from[2]), i64(from[3]),
                from[4],      from[5],      from[6],      from[7]};
    }
};

// y and z of what is settled; only values and moments have any.
struct Settled {
    int operation, d;
    double mean;
    double* out;

    __device__ void put(int i, bool in) const {
        if (operation > MOMENTS || !in) return;
        out[i] = 1;
        if (operation == MOMENTS) out[d + i] = mean;
    }
};

// Infinite scores: in or out by the order of their indices. Returns how many places are left for
// finite ones; 0 if they are settled too, all in or all out.
__device__ inline int settle_infinite(const double* theta, int k, const Settled& settled,
                                      double* room) {
    const double INFINITE = bits::infinity<double>();
    const int d = settled.d;
    int above = 0, finite = 0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        above += theta[i] == INFINITE;
        finite += theta[i] - theta[i] == 0;
    }
    above = sum_of_block(above, room);
    finite = sum_of_block(finite, room);
    const int left = max(0, k - above);
    const bool all_in = finite <= left;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        if (theta[i] - theta[i] == 0) {
            settled.put(i, all_in);
            continue;
        }
        int before = 0;
        for (int j = 0; j < i; ++j) before += theta[j] == theta[i];
        settled.put(i, before < (theta[i] > 0 ? k : left - finite));
    }
    return all_in ? 0 : left;
}

// The k-th and the next largest of lower and of upper ends.
struct Ends {
    double lower, next_lower, upper, next_upper;
};

// `x` and `a` are those of finite coordinates; others have x = -inf.
__device__ inline Ends kth_ends(const double* x, const double* a, int d, int k, double low,
                                double high, double* room) {
    const double INFINITE = bits::infinity<double>();
    Ends best = {-INFINITE, -INFINITE, -INFINITE, -INFINITE};
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const double lower = x[i] + low / a[i], upper = x[i] + high / a[i];
        int more_lower = 0, more_upper = 0, ties_lower = 0, ties_upper = 0;
        for (int j = 0; j < d; ++j) {
            const double other_lower = x[j] + low / a[j], other_upper = x[j] + high / a[j];
            more_lower += other_lower > lower;
            ties_lower += other_lower == lower;
            more_upper += other_upper > upper;
            ties_upper += other_upper == upper;
        }
        // The k-th largest has less than k above it, and k with its equals.
        if (more_lower < k && k <= more_lower + ties_lower) best.lower = lower;
        if (more_lower <= k && k < more_lower + ties_lower) best.next_lower = lower;
        if (more_upper < k && k <= more_upper + ties_upper) best.upper = upper;
        if (more_upper <= k && k < more_upper + ties_upper) best.next_upper = upper;
    }
    return {largest_of_block(best.lower, room), largest_of_block(best.next_lower, room),
            largest_of_block(best.upper, room), largest_of_block(best.next_upper, room)};
}

// Coordinate i is in if it exceeds the k-th largest of the others, which lies in [least, most].
struct Verdict {
    double least, most;
    bool in, open;

    __device__ Verdict(double x, double a, double low, double high, const Ends& ends) {
        const double end = x + low / a, peak = x + high / a;
        least = end >= ends.lower ? ends.next_lower : ends.lower;
        most = peak >= ends.upper ? ends.next_upper : ends.upper;
        in = end > most;
        open = !in && peak >= least;
    }
};

// `rules`, (2, num_rules, 3), are those of X and of -X. x, a and `where`, (rows, d), receive the
// coordinates to judge; `located`, (2, rows, d), is scratch.
__global__ void __launch_bounds__(MAX_THREADS, 1)
    settle(const double* theta, const double* epsilon, int d, int per_coordinate, int k,
           int operation, double mean, const double* rules, int num_rules, double* located,
           double* x, double* a, int* where, double* judged, i64 size_of_row, double* out) {
    __shared__ double room[MAX_THREADS / WARP];
    const double INFINITE = bits::infinity<double>();
    const i64 b = blockIdx.x;
    theta += b * d, x += b * d, a += b * d, where += b * d, judged += 8 * b;
    epsilon += b * (per_coordinate ? d : 1);
    double *all_x = located + b * d, *all_a = located + (gridDim.x + b) * d;
    const Settled settled = {operation, d, mean, out + b * size_of_row};
    Judged result = {0, settle_infinite(theta, k, settled, room), 0, 0, 1, 1, 0, 0};
    if (result.k == 0) {
        if (threadIdx.x == 0) result.store(judged);
        return;
    }
    double unit = INFINITE;
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        if (theta[i] - theta[i] == 0) unit = min(unit, epsilon[per_coordinate ? i : 0]);
    result.unit = unit = smallest_of_block(unit, room);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const bool finite = theta[i] - theta[i] == 0;
        all_x[i] = finite ? theta[i] / unit : -INFINITE;
        all_a[i] = finite ? unit / epsilon[per_coordinate ? i : 0] : 1;
    }
    __syncthreads();
    const double* last = rules + 3 * (num_rules - 1);
    const double* last_mirrored = last + 3 * num_rules;
    const double low = min(last[1], -last_mirrored[2]), high = max(last[2], -last_mirrored[1]);
    const Ends ends = kth_ends(all_x, all_a, d, result.k, low, high, room);
    if (threadIdx.x >= WARP) return;

    // One warp keeps their order.
    const int lane = threadIdx.x;
    double bottom = INFINITE, top = -INFINITE;
    for (int begin = 0; begin < d; begin += WARP) {
        const int i = begin + lane;
        bool in = false, open = false;
        if (i < d && all_x[i] > -INFINITE) {
            const Verdict verdict(all_x[i], all_a[i], low, high, ends);
            in = verdict.in, open = verdict.open;
            settled.put(i, in);
            if (open) bottom = min(bottom, verdict.least), top = max(top, verdict.most);
        }
        const u32 mask = __ballot_sync(ALL_LANES, open);
        if (open) where[result.n + __popc(mask & ((1u << lane) - 1))] = i;
        result.n += __popc(mask);
        result.k -= __popc(__ballot_sync(ALL_LANES, in));
    }
    __syncwarp();
    const int n = result.n;
    const bool none_in = result.k <= 0;
    if (none_in || result.k >= n) {
        for (int j = lane; j < n; j += WARP) settled.put(where[j], !none_in);
        result.n = 0;
        if (lane == 0) result.store(judged);
        return;
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        bottom = min(bottom, __shfl_xor_sync(ALL_LANES, bottom, distance));
        top = max(top, __shfl_xor_sync(ALL_LANES, top, distance));
    }
    result.mirrored = 2 * result.k > n;  // then the n - k smallest are found
    if (result.mirrored) {
        const double old = bottom;
        bottom = -top, top = -old;
        result.k = n - result.k;
    }
    int which = 0;
    while (1 << which < n) ++which;
    const double* rule = rules + 3 * (which + (result.mirrored ? num_rules : 0));
    double first = bottom;
    for (int j = lane; j < n; j += WARP) {
        const int i = where[j];
        x[j] = result.mirrored ? -all_x[i] : all_x[i];
        a[j] = all_a[i];
        first = max(first, x[j] + rule[2] / a[j]);
        settled.put(i, result.mirrored);  // from which integrals are subtracted
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        first = max(first, __shfl_xor_sync(ALL_LANES, first, distance));
    result.step = rule[0];
    result.first = result.step * ceil(first / result.step);
    result.tiles = i64(ceil((result.first - bottom) / (result.step * NODES)));
    result.top = top;
    if (lane == 0) result.store(judged);
}

// ----------------------------------------------------------------------------------- the programme

// A value, and its derivatives along v; along w, and along both.
template <int PARTS>
struct Number {
    double part[PARTS];
};

template <int PARTS>
__device__ inline Number<PARTS> product(const Number<PARTS>& q, const Number<PARTS>& x) {
    Number<PARTS> result = {{q.part[0] * x.part[0]}};
    if constexpr (PARTS > 1)
        result.part[1] = bits::fma(q.part[0], x.part[1], q.part[1] * x.part[0]);
    if constexpr (PARTS > 2) {
        result.part[2] = bits::fma(q.part[0], x.part[2], q.part[2] * x.part[0]);
        double both = bits::fma(q.part[2], x.part[1], q.part[3] * x.part[0]);
        both = bits::fma(q.part[1], x.part[2], both);
        result.part[3] = bits::fma(q.part[0], x.part[3], both);
    }
    return result;
}

// here + q (there - here).
template <int PARTS>
__device__ inline Number<PARTS> moved(const Number<PARTS>& q, const Number<PARTS>& here,
                                      const Number<PARTS>& there) {
    Number<PARTS> change;
    for (int p = 0; p < PARTS; ++p) change.part[p] = there.part[p] - here.part[p];
    change = product(q, change);
    for (int p = 0; p < PARTS; ++p) change.part[p] += here.part[p];
    return change;
}

// Chances of counts 0 .. k - 1, a lane's own; memory is (k, PARTS, lanes).
template <int PARTS>
struct Chances {
    double* memory;

    __device__ Number<PARTS> get(int n) const {
        Number<PARTS> x;
        for (int p = 0; p < PARTS; ++p) x.part[p] = memory[(n * PARTS + p) * NODES];
        return x;
    }
    __device__ void put(int n, const Number<PARTS>& x) const {
        for (int p = 0; p < PARTS; ++p) memory[(n * PARTS + p) * NODES] = x.part[p];
    }
    // 1 below `certain`, 0 from there on.
    __device__ void start(int certain, int k) const {
        for (int n = 0; n < k; ++n) put(n, {{n < certain ? 1.0 : 0.0}});
    }
    __device__ void copy_to(const Chances& target, int k) const {
        for (int n = 0; n < k; ++n) target.put(n, get(n));
    }
    // Of a count with one coordinate more.
    __device__ void forward(const Chances& target, int k, const Number<PARTS>& q) const {
        Number<PARTS> before = {};
        for (int n = 0; n < k; ++n) {
            const Number<PARTS> here = get(n);
            target.put(n, moved(q, here, before));
            before = here;
        }
    }
    // Likewise, of less than k - n after one coordinate fewer; in place.
    __device__ void backward(int k, const Number<PARTS>& q) const {
        Number<PARTS> here = get(0);
        for (int n = 0; n < k; ++n) {
            const Number<PARTS> after = n + 1 < k ? get(n + 1) : Number<PARTS>{};
            put(n, moved(q, here, after));
            here = after;
        }
    }
    // sum_n c_n b_n.
    __device__ Number<PARTS> contract(const Chances& b, int k) const {
        Number<PARTS> total = {};
        for (int n = 0; n < k; ++n) {
            const Number<PARTS> x = product(get(n), b.get(n));
            for (int p = 0; p < PARTS; ++p) total.part[p] += x.part[p];
        }
        return total;
    }
};

// The law of a coordinate at a node: of X, or of -X.
struct Law {
    double u, q, f, slope, bend;
};

template <int FAMILY>
__device__ inline Law law_of(double x, double a, double t, bool mirrored) {
    const double sign = mirrored ? -1 : 1, u = (t - x) * a;
    const auto [f, above, below] = laws::density<FAMILY>(u * sign);
    const auto [s, slope] = laws::score<FAMILY>(u * sign, below);
    const double fa = f * a;
    return {u, mirrored ? below : above, fa, fa * s * (sign * a),
            fa * bits::fma(s, s, -slope) * (a * a)};
}

// P(X_j > t).
template <int PARTS>
__device__ inline Number<PARTS> exceed(const Law& law, double v, double w) {
    Number<PARTS> q = {{law.q}};
    if constexpr (PARTS > 1) q.part[1] = law.f * v;
    if constexpr (PARTS > 2) {
        q.part[2] = law.f * w;
        q.part[3] = law.slope * (v * w);
    }
    return q;
}

// The integrand of y, or of the derivative that is asked for, given B.
template <int PARTS>
__device__ inline double integrand(int operation, const Law& law, double a, double v, double w,
                                   const Number<PARTS>& b) {
    if constexpr (PARTS == 1) {
        return law.f * b.part[0];
    } else if constexpr (PARTS == 2) {
        const double moved = law.slope * v, along_v = law.f * b.part[1];
        if (operation == PRODUCT) return bits::fma(moved, b.part[0], along_v);
        const double own = bits::fma(law.u, moved, law.f * (-a * v));
        return bits::fma(own, b.part[0], law.u * along_v);
    } else {
        const double total = bits::fma(law.f, b.part[3], law.bend * (v * w) * b.part[0]);
        return bits::fma(law.slope, bits::fma(b.part[2], v, b.part[1] * w), total);
    }
}

// Integrals of rows, as `settle` left them; PARTS of a number are 1 for VALUE and MOMENTS, 2 for
// PRODUCT and SCALE, 4 for SECOND. `memory` has `size` doubles a warp: chances at every span-th
// coordinate, of a span, and two more. `out`, (rows, parts, 1 or 2 slots, d).
template <int FAMILY, int PARTS>
__global__ void __launch_bounds__(WARP, 1)
    exact_topk(const double* xs, const double* as, const int* wheres, const double* judged, int d,
               int parts, int operation, const double* v, i64 stride_of_v, const double* w,
               i64 stride_of_w, int most, int span, i64 size, double* memory, double* out) {
    const int lane = threadIdx.x, part = blockIdx.x % parts;
    const i64 b = blockIdx.x / parts;
    const Judged row = Judged::load(judged + 8 * b);
    const double *x = xs + b * d, *a = as + b * d;
    const int *where = wheres + b * d, n = row.n, k = row.k;
    v += b * stride_of_v, w += b * stride_of_w;
    out += i64(blockIdx.x) * (operation == MOMENTS ? 2 : 1) * d;
    memory += blockIdx.x * size + lane;
    const auto chances = [&](int which) {
        return Chances<PARTS>{memory + i64(which) * most * PARTS * NODES};
    };
    const Chances<PARTS> before = chances(0), after = chances(1);
    const bool subtracted = row.mirrored && operation != PRODUCT;
    const double per = row.step * per_unit(operation, row.unit);

    for (i64 tile = part; tile < row.tiles && n > 0; tile += parts) {
        const double highest = row.first - row.step * NODES * double(tile);
        const double t = highest - lane * row.step;
        const auto q_of = [&](int j) {
            const Law law = law_of<FAMILY>(x[j], a[j], t, row.mirrored);
            const int i = where[j];
            return exceed<PARTS>(law, PARTS > 1 ? v[i] : 0, PARTS > 2 ? w[i] : 0);
        };
        const auto add = [&](int j, const Number<PARTS>& chance) {
            const Law law = law_of<FAMILY>(x[j], a[j], t, row.mirrored);
            const int i = where[j];
            const double vi = PARTS > 1 ? v[i] : 0, wi = PARTS > 2 ? w[i] : 0;
            const double term = integrand(operation, law, a[j], vi, wi, chance);
            const double total = per * tree_sum(term);
            if (lane == 0) out[i] += subtracted ? -total : total;
            if (operation != MOMENTS) return;
            const double moment = per * tree_sum(law.u * term);
            if (lane == 0) out[d + i] += moment;
        };
        if (highest - row.step * (NODES - 1) > row.top) {  // no node sees k others above it
            for (int j = 0; j < n; ++j) add(j, {{1.0}});
            continue;
        }
        const int spans = (n + span - 1) / span, first_checkpoint = 2 + span;
        before.start(1, k);
        for (int j = 0; j < n; ++j) {
            if (j % span == 0) before.copy_to(chances(first_checkpoint + j / span), k);
            before.forward(before, k, q_of(j));
        }
        after.start(k, k);
        for (int s = spans - 1; s >= 0; --s) {
            const int first = s * span, last = min(n, first + span);
            chances(first_checkpoint + s).copy_to(chances(2), k);
            for (int j = first; j < last - 1; ++j)
                chances(2 + j - first).forward(chances(3 + j - first), k, q_of(j));
            for (int j = last - 1; j >= first; --j) {
                add(j, chances(2 + j - first).contract(after, k));
                after.backward(k, q_of(j));
            }
        }
    }
}
