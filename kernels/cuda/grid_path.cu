// Cheapest paths through grids of vertex costs on the GPU, exact. Twin of kernels/cpu/grid_path.py.
//
//     D(source) = w(source),    D(v) = min over neighbours u of D(u) + w(v),    w = max(p,
//     min_cost)
//
// Relaxation. Distances have a halo of +inf. Cells have one of four colours, the parities of row
// and column, so that no neighbours share one: a colour is relaxed in place by all threads at once,
// with no race, until a round changes nothing. Sums are associated along the path and rounding is
// monotone, so the fixed point is Dijkstra's to the last bit, in any order. Rounds, on average, of
// 12 x 12, 18 x 18 and 30 x 30 cells: 9, 14 and 23.
//
// Warm start. Relaxation may begin from whatever paths cost, if that is summed along them: from the
// tree of the row's own, unperturbed paths, at this sample's costs. Its levels must follow one
// another, one step each or more, so it pays where most of the tree stays: path_trees, a block a
// row, finds it and counts the cells that another neighbour leads to as cheaply, to within the
// temperature. docs/gpu.md has what is saved. No result depends on it.
//
// Teams. A grid is a warp where grids are small, or many: several share a block, none waits for
// another. Else a block.
//
// Path. From the target back to the first neighbour u in row-major order that explains D(v) = D(u)
// + w(v) with D(u) < D(v), eight lanes looking at eight neighbours. Where only a neighbour of equal
// distance does, one thread searches breadth first, as the CPU does.
//
// solve.cuh has the mapping, the memory and what is deterministic.
#include "solve.cuh"

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

// A thread's cells among those with columns of one parity: row and column of the first, counted
// within the colour, and how far the next is. No division in the loops.
struct Deal {
    int columns, row, column, rows_on, columns_on;

    __device__ Deal(int columns_, int thread, int threads)
        : columns(max(columns_, 1)),
          row(thread / columns),
          column(thread % columns),
          rows_on(threads / columns),
          columns_on(threads % columns) {}
    __device__ void advance() {
        row += rows_on;
        column += columns_on;
        if (column >= columns) {
            column -= columns;
            ++row;
        }
    }
};

// Relax the cells of one colour; whether this thread's distances fell.
template <class Real>
__device__ inline bool relax_colour(const Grid<Real>& grid, int colour, Deal at) {
    const int first_row = colour / 2, first_column = colour % 2, stride = grid.stride();
    const int rows = first_column < grid.width ? (grid.height - first_row + 1) / 2 : 0;
    bool fell = false;
    for (; at.row < rows; at.advance()) {
        const int row = first_row + 2 * at.row, column = first_column + 2 * at.column;
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

// The last step of a path in the tree of a row's own paths. Level by level, from the source, which
// has none; level k ends at branches[k].end, and an empty level is the last.
struct Branch {
    unsigned short cell, place, from, end;  // places are those among distances
};

// What the paths of a tree cost in this sample.
template <class Team, class Real>
__device__ inline void follow(const Grid<Real>& grid, const Branch* branches) {
    int begin = 0;
    for (int level = 0; branches[level].end > begin; ++level) {
        const int end = branches[level].end;
        for (int i = begin + Team::thread(); i < end; i += Team::threads()) {
            const Branch branch = branches[i];
            grid.distance[branch.place] = grid.distance[branch.from] + grid.cost(branch.cell);
        }
        Team::sync();
        begin = end;
    }
}

// Distances from the source; from what a tree's paths cost, unless null.
template <class Team, class Real>
__device__ inline void relax(const Grid<Real>& grid, int source, const Branch* branches) {
    for (int i = Team::thread(); i < (grid.height + 2) * grid.stride(); i += Team::threads())
        grid.distance[i] = i == grid.inner(source) ? grid.cost(source) : bits::infinity<Real>();
    const Deal even((grid.width + 1) / 2, Team::thread(), Team::threads());
    const Deal odd(grid.width / 2, Team::thread(), Team::threads());
    Team::sync();
    if (branches) follow<Team>(grid, branches);
    bool fell = true;
    while (fell) {
        fell = false;
        for (int colour = 0; colour < 4; ++colour) {
            fell |= relax_colour(grid, colour, colour % 2 ? odd : even);
            if (colour < 3) Team::sync();
        }
        fell = Team::any(fell);
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

// Which grids: their shape, and what a launch needs for their paths. Fields are in the order of
// solvers.py.
template <class Real>
struct Grids {
    const i64* places;  // source and target, (rows, 2)
    Real* distances;    // where shared memory is too small: (teams, (height + 2) (width + 2))
    int* scratch;       // (teams, 2 d)
    u64* trees;         // of the rows' own paths, a Branch a cell: (rows, d); or null
    int height, width, neighbours;
    Real least;

    __device__ Branch* tree(i64 b) const {
        return trees ? reinterpret_cast<Branch*>(trees) + b * height * width : nullptr;
    }
};

// The trees of all rows, a block a row; empty where more than `limit` cells are in doubt, since two
// neighbours lead to them at the least cost or one above it by no more than the temperature. Paths
// have the fewest steps, so cells of cost 0 make no cycle, and the first neighbour in row-major
// order.
template <class Draw, int CAPACITY, class Real = typename Draw::Real>
__global__ void __launch_bounds__(WholeBlock::MAX_THREADS)
    path_trees(Rows<Real> rows, Grids<Real> grids, int limit) {
    static_assert(CAPACITY < 0x10000, "places of a Branch");
    __shared__ Real distance[CAPACITY];
    __shared__ int reached[CAPACITY];
    __shared__ int found, in_doubt;
    const i64 b = blockIdx.x;
    const Grid<Real> grid = {grids.height,
                             grids.width,
                             grids.neighbours == 8,
                             grids.least,
                             rows.scores + b * 4 * rows.quads(),
                             distance};
    const int source = int(grids.places[2 * b]);
    const Scale<Draw> scale(rows, b);
    Branch* branches = grids.tree(b);
    for (int i = threadIdx.x; i < (grid.height + 2) * grid.stride(); i += blockDim.x)
        reached[i] = i == grid.inner(source);
    if (threadIdx.x == 0) found = in_doubt = 0;
    relax<WholeBlock>(grid, source, nullptr);

    int begin = 0, doubtful = 0;
    for (int level = 0;; ++level) {
        for (int v = threadIdx.x; v < grid.cells(); v += blockDim.x) {
            const int place = grid.inner(v);
            if (reached[place] || !(distance[place] < bits::infinity<Real>())) continue;
            Real noise = scale.at(v) < 0 ? -scale.at(v) : scale.at(v);
            if constexpr (Draw::kind == MULTIPLICATIVE) noise *= grid.cost(v);
            int from = -1, near = 0;
            for (int k = 0; k < grid.neighbours(); ++k) {
                const int u = grid.neighbour(v, k);
                if (u < 0) continue;
                if (from < 0 && reached[grid.inner(u)] && grid.tight(u, v)) from = grid.inner(u);
                near += distance[grid.inner(u)] + grid.cost(v) <= distance[place] + noise;
            }
            if (from < 0) continue;
            doubtful += near > 1;
            branches[atomicAdd(&found, 1)] = {(unsigned short)v, (unsigned short)place,
                                              (unsigned short)from, 0};
        }
        __syncthreads();
        const int end = found;
        for (int i = begin + threadIdx.x; i < end; i += blockDim.x)
            reached[branches[i].place] = true;
        if (threadIdx.x == 0) branches[level].end = (unsigned short)end;
        __syncthreads();
        if (end == begin) break;
        begin = end;
    }
    atomicAdd(&in_doubt, doubtful);
    __syncthreads();
    if (threadIdx.x == 0 && in_doubt > limit) branches[0].end = 0;
}

// CAPACITY: cells of shared memory, halo included; or 0. `failed` is set to 1 where there is no
// path of finite cost.
template <class Draw, class Team, int CAPACITY, class Real = typename Draw::Real>
__global__ void __launch_bounds__(Team::MAX_THREADS, SOLVING_BLOCKS<Draw, Team>)
    grid_path(Rows<Real> rows, Wanted<Real> wanted, Workspace<Real> workspace, Grids<Real> grids,
              int* failed) {
    constexpr bool SHARED = CAPACITY > 0;
    alignas(16) __shared__ Real p[Team::TEAMS_OF_BLOCK][SHARED ? CAPACITY : 1];
    __shared__ Real distances[Team::TEAMS_OF_BLOCK][SHARED ? CAPACITY : 1];
    const int height = grids.height, width = grids.width;
    Real* distance = SHARED ? distances[Team::in_block()]
                            : grids.distances + Team::index() * (height + 2) * (width + 2);
    int *queue = grids.scratch + Team::index() * 2 * rows.d, *towards = queue + rows.d;
    for (int i = Team::thread(); i < rows.d; i += Team::threads()) towards[i] = -1;
    const auto solve = [&](const Real* p, int* y, i64 b) {
        const Grid<Real> grid = {height, width, grids.neighbours == 8, grids.least, p, distance};
        const int source = int(grids.places[2 * b]), target = int(grids.places[2 * b + 1]);
        for (int i = Team::thread(); i < rows.d; i += Team::threads()) y[i] = 0;
        relax<Team>(grid, source, SHARED ? grids.tree(b) : nullptr);
        if (Team::thread() < WARP) walk(grid, source, target, queue, towards, y, failed);
    };
    Real* mine = SHARED ? p[Team::in_block()] : nullptr;
    solve_samples<Draw, Team, true>(rows, wanted, workspace, mine, solve);
}
