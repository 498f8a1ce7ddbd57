// What the API asks of whole arrays, before launches and after them. A thread is some entries.
#include "bits.cuh"

constexpr int MAX_THREADS = 256;

// found[0] = 1 where an entry is not in [low, high]; NaN never is.
template <class Real>
__global__ void __launch_bounds__(MAX_THREADS)
    find_outside(const Real* x, i64 size, double low, double high, int* found) {
    const i64 step = i64(gridDim.x) * blockDim.x;
    bool any = false;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step)
        any |= !(x[i] >= low && x[i] <= high);
    if (any) atomicOr(found, 1);
}

// result = x / divisor, entry by entry.
template <class From, class To>
__global__ void __launch_bounds__(MAX_THREADS)
    divide(const From* x, i64 size, double divisor, To* result) {
    const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < size) result[i] = To(double(x[i]) / divisor);
}

// result = sums / divisor * d location / d parameter / eps, entry by entry: what a VJP's sums of
// (rows, d) become. `epsilon` is (rows, columns), of one column or d. The derivative is `sign`, or
// with MULTIPLICATIVE `sign` / theta; 0 where a score is infinite, or 0 and multiplied.
template <class Real, bool MULTIPLICATIVE>
__global__ void __launch_bounds__(MAX_THREADS)
    apply_slope(const double* sums, i64 row_of_sums, const Real* theta, const Real* epsilon,
                i64 size, int d, int columns, double divisor, double sign, double* result) {
    const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size) return;
    const i64 b = i / d, at = i - b * d;
    const double x = theta[i], eps = epsilon[columns > 1 ? i : b];
    const double slope = MULTIPLICATIVE ? sign / (eps * x) : sign / eps;
    const bool fixed = x - x != 0 || (MULTIPLICATIVE && x == 0);
    result[i] = fixed ? 0.0 : sums[b * row_of_sums + at] / divisor * slope;
}
