// Cheapest paths through grids of vertex costs on the GPU, exact. Twin of kernels/cpu/grid_path.py.
//
//     D(source) = w(source),    D(v) = min over neighbours u of D(u) + w(v),    w = max(p,
//     min_cost)
//
// Relaxation. Distances have a halo of +inf. Cells have one of four colours, the parities of row
// and column, so that no neighbours share one: a colour is relaxed in place by all threads at once,
// with no race, until a round changes nothing. Sums are associated along the path and rounding is
// monotone, so the fixed point is Dijkstra's to the last bit, in any order.
//
// Path. From the target back to the first neighbour u in row-major order that explains D(v) = D(u)
// + w(v) with D(u) < D(v), eight lanes looking at eight neighbours. Where only a neighbour of equal
// distance does, one thread searches breadth first, as the CPU does.
//
// solve.cuh has the mapping, the memory and what is deterministic.
#include "solve.cuh"

constexpr int MAX_THREADS = 256;

template <class Real>
struct Grid {
    int height, width;
    bool diagonal;  // eight neighbours, or four
    Real least;     // costs are clipped from below
    const Real* p;
    Real* distance;  // (height + 2, width + 2)

    __device__ int cells() const { return height * width; }
    __device__ int stride() const { return width + 2; }
    // A cell's place among distances.
    __device__ int inner(int cell) const {
        return (cell / width + 1) * stride() + cell % width + 1;
    }
    __device__ Real cost(int cell) const { return p[cell] > least ? p[cell] : least; }

    // The k-th neighbour in row-major order; -1 outside the grid.
    __device__ int neighbour(int cell, int k) const {
        if (!diagonal)
            k = 2 * k + 1;  // 1, 3, 5, 7 of the nine cells around
        else if (k >= 4)
            ++k;  // without the cell itself
        const int row = cell / width + k / 3 - 1, column = cell % width + k % 3 - 1;
        const bool inside = 0 <= row && row < height && 0 <= column && column < width;
        return inside ? row * width + column : -1;
    }
    __device__ int neighbours() const { return diagonal ? 8 : 4; }

    // Whether D(v) = D(u) + w(v).
    __device__ bool tight(int u, int v) const {
        return distance[inner(u)] + cost(v) == distance[inner(v)];
    }
    // Whether the way to v comes from u, through a smaller distance.
    __device__ bool before(int u, int v) const {
        return u >= 0 && tight(u, v) && distance[inner(u)] < distance[inner(v)];
    }
};

// Relax the cells of one colour; whether this thread's distances fell.
template <class Real>
__device__ inline bool relax_colour(const Grid<Real>& grid, int colour) {
    const int first_row = colour / 2, first_column = colour % 2, stride = grid.stride();
    const int columns = (grid.width - first_column + 1) / 2;
    const int rows = (grid.height - first_row + 1) / 2;
    bool fell = false;
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
        const int row = first_row + 2 * (i / columns), column = first_column + 2 * (i % columns);
        Real* here = grid.distance + (row + 1) * stride + column + 1;
        Real best = min(min(here[-stride], here[stride]), min(here[-1], here[1]));
        if (grid.diagonal) {
            best = min(best, min(here[-stride - 1], here[-stride + 1]));
            best = min(best, min(here[stride - 1], here[stride + 1]));
        }
        const Real through = best + grid.cost(row * grid.width + column);
        if (through < *here) {
            *here = through;
            fell = true;
        }
    }
    return fell;
}

// Distances from the source.
template <class Real>
__device__ inline void relax(const Grid<Real>& grid, int source) {
    for (int i = threadIdx.x; i < (grid.height + 2) * grid.stride(); i += blockDim.x)
        grid.distance[i] = i == grid.inner(source) ? grid.cost(source) : bits::infinity<Real>();
    __syncthreads();
    int fell = 1;
    while (fell) {
        fell = 0;
        for (int colour = 0; colour < 4; ++colour) {
            fell |= relax_colour(grid, colour);
            if (colour < 3) __syncthreads();
        }
        fell = __syncthreads_or(fell);
    }
}

// Mark the way from v, through equal distances, to where a smaller one comes before; returns where.
// Breadth first, neighbours in row-major order. `queue` has room for all cells, `towards` is -1
// for each: the cell that it leads to, once reached.
template <class Real>
__device__ inline int leave_tie(const Grid<Real>& grid, int v, int source, int* queue, int* towards,
                                int* y) {
    queue[0] = towards[v] = v;
    int reached = 1, found = -1;
    for (int first = 0; found < 0; ++first) {
        const int x = queue[first];
        for (int k = 0; k < grid.neighbours() && found < 0; ++k) {
            const int u = grid.neighbour(x, k);
            if (u < 0 || towards[u] >= 0 || !grid.tight(u, x)) continue;
            queue[reached++] = u;
            towards[u] = x;
            bool ends = u == source;
            for (int j = 0; j < grid.neighbours(); ++j)
                ends |= grid.before(grid.neighbour(u, j), u);
            if (ends) found = u;
        }
    }
    for (int u = found; u != v; u = towards[u]) y[u] = 1;
    for (int i = 0; i < reached; ++i) towards[queue[i]] = -1;
    return found;
}

// Mark the path in y, which is 0; the first warp calls it.
template <class Real>
__device__ inline void walk(const Grid<Real>& grid, int source, int target, int* queue,
                            int* towards, int* y, int* failed) {
    const int lane = threadIdx.x % WARP;
    if (!(grid.distance[grid.inner(target)] < bits::infinity<Real>())) {
        if (lane == 0) atomicOr(failed, 1);
        return;
    }
    int v = target;
    while (true) {
        if (lane == 0) y[v] = 1;
        if (v == source) break;
        const int u = lane < grid.neighbours() ? grid.neighbour(v, lane) : -1;
        const u32 explain = __ballot_sync(ALL_LANES, grid.before(u, v));
        if (explain) {
            v = grid.neighbour(v, __ffs(int(explain)) - 1);
        } else {
            if (lane == 0) v = leave_tie(grid, v, source, queue, towards, y);
            v = __shfl_sync(ALL_LANES, v, 0);
        }
    }
}

// CAPACITY: cells of shared memory, halo included; 0 to use `seen`, (blocks, 4 quads), and
// `distances`, (blocks, (height + 2) (width + 2)). places: source and target, (rows, 2). scratch:
// (blocks, 2 d), -1. failed: set to 1 where there is no path of finite cost.
template <class Draw, int CAPACITY, class Real = typename Draw::Real>
__global__ void __launch_bounds__(MAX_THREADS, SOLVING_BLOCKS<Draw>)
    grid_path(const Real* scores, const Real* scales, const u32* seed, const u32* directions,
              int digits, const i64* row_ids, int d, i64 num_samples, u32 first_sample, i64 rows,
              int batch, i64* counts, int squares, const Real* v, const Real* mean, Real pull,
              Real* weights, double* values, int* solutions, int* workspace, i64* sums, Real* seen,
              int height, int width, int neighbours, Real least, const i64* places, Real* distances,
              int* scratch, int* failed) {
    alignas(16) __shared__ Real p_of_block[CAPACITY > 0 ? CAPACITY : 4];
    __shared__ Real distance_of_block[CAPACITY > 0 ? CAPACITY : 1];
    Real* p = CAPACITY > 0 ? p_of_block : seen + i64(blockIdx.x) * 4 * quads_of(d);
    Real* distance =
        CAPACITY > 0 ? distance_of_block : distances + i64(blockIdx.x) * (height + 2) * (width + 2);
    int* queue = scratch + i64(blockIdx.x) * 2 * d;
    const auto solve = [&](const Real* p, int* y, i64 b) {
        const Grid<Real> grid = {height, width, neighbours == 8, least, p, distance};
        const int source = int(places[2 * b]), target = int(places[2 * b + 1]);
        for (int i = threadIdx.x; i < d; i += blockDim.x) y[i] = 0;
        relax(grid, source);
        if (threadIdx.x < WARP) walk(grid, source, target, queue, queue + d, y, failed);
    };
    solve_samples<Draw>({d, rows, num_samples, first_sample, batch}, scores, scales, seed,
                        directions, digits, row_ids,
                        {counts, squares, v, mean, pull, weights, values, solutions}, p, workspace,
                        sums, solve);
}
