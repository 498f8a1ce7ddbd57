// The pieces of noise, word by word: what tests compare with kernels/noise*.py. A thread is a word.
#include "perturb.cuh"

template <class Draw, class Real = typename Draw::Real>
__global__ void formulas(const u32* high, const u32* low, int n, Real* quantile, Real* exponential,
                         Real* logistic_score) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    quantile[i] = Formulas<Draw>::quantile(high[i], low[i]);
    exponential[i] = Formulas<Draw>::exponential(high[i], low[i]);
    logistic_score[i] = Formulas<Draw>::logistic_score(high[i], low[i]);
}

template <class Real>
__global__ void exponentials(const Real* x, int n, Real* growth_of_x) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) growth_of_x[i] = growth(x[i]);
}

__global__ void blocks(const u32* counters, const u32* keys, int n, u32* words) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const u32* c = counters + 4 * i;
    const Quad<u32> w = philox4x32(c[0], c[1], c[2], c[3], {keys[2 * i], keys[2 * i + 1]});
    for (int k = 0; k < 4; ++k) words[4 * i + k] = w[k];
}

// Noise and scores of samples 0 .. n - 1 of a row, (n, 4 quads).
template <class Draw, class Real = typename Draw::Real>
__global__ void samples(const u32* seed, const u32* directions, int digits, u32 row, int quads,
                        int n, Real scale, Real* z, Real* s, Real* again) {
    const int m = blockIdx.x * blockDim.x + threadIdx.x;
    if (m >= n) return;
    const Noise<Draw> noise = {{seed[0], seed[1]}, row, 0, directions, digits};
    for (int q = 0; q < quads; ++q) {
        const Quad<Real> a = noise.decision(q, m);
        const Quad<Real> b = noise.scores(q, m, {{scale, scale, scale, scale}});
        for (int k = 0; k < 4; ++k) {
            const int at = (m * quads + q) * 4 + k;
            z[at] = a[k];
            s[at] = b[k];
            again[at] = noise.decision_at(4 * q + k, m);
        }
    }
}
