// The argmax of one sample, found by a team of neighbouring threads.
#pragma once
#include "reject.cuh"

constexpr int UNKNOWN = -1;  // for an index: below all

// The largest so far, the lowest index on a tie.
template <class Real>
struct Best {
    Real value;
    int index;

    __device__ void take(const Best& other) {
        const bool tie = other.value == value && other.index < index;
        if (other.value > value || tie) *this = other;
    }
    __device__ Best from_lane(int lane_xor) const {
        return {__shfl_xor_sync(ALL_LANES, value, lane_xor),
                __shfl_xor_sync(ALL_LANES, index, lane_xor)};
    }
};

// A thread's part: quads first, first + step, ... of what the sample sees.
template <class Draw, class Real = typename Draw::Real>
__device__ inline Best<Real> best_of_quads(const Noise<Draw>& noise, const Quad<Real>* scores,
                                           const Scale<Draw>& scale, int quads, int first, int step,
                                           u32 sample) {
    // Indices rise, so of equal values the first stays.
    Best<Real> best = {-bits::infinity<Real>(), 0};
    const auto* of_quad = scores + first;
#pragma unroll 2
    for (int q = first; q < quads; q += step) {
        const Quad<Real> z = noise.decision(q, sample);
        const Quad<Real> x = *of_quad;
        const Quad<Real> e = Draw::kind == RACE ? Quad<Real>{} : scale.quad(q);
        of_quad += step;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const Real p = perturbed<Draw>(x[k], e[k], z[k]);
            if (p > best.value) best = {p, 4 * q + k};
        }
    }
    return best;
}

// The same by early rejection: the best of the thread's candidates, or UNKNOWN, which beats all, if
// they are more than `list` holds.
template <class Draw, class Real = typename Draw::Real>
__device__ inline Best<Real> best_of_candidates(const Noise<Draw>& noise, const Real* scores,
                                                const Scale<Draw>& scale, const Quad<u32>* limits,
                                                int quads, int first, int step, u32 sample,
                                                u32* list, int stride) {
    const int found = list_candidates(noise, limits, quads, first, step, sample, list, stride);
    if (found > CANDIDATE_QUADS) return {bits::infinity<Real>(), UNKNOWN};
    Best<Real> best = {-bits::infinity<Real>(), 0};
    u32 entry = 0;
    for (int next = 0; next < found || entry % 16 != 0;) {
        if (entry % 16 == 0) entry = list[next++ * stride];
        const int i = int(entry / 16) * 4 + __ffs(int(entry)) - 1;
        entry &= entry - 1;
        const Real e = Draw::kind == RACE ? Real(0) : scale.at(i);
        const Real p = perturbed<Draw>(scores[i], e, noise.decision_at(i, sample));
        if (p > best.value) best = {p, i};
    }
    return best;
}

// The best of every team of `team` threads, a power of two; all threads of the block call it, and
// the first of each team has the result. `shared` has room for one a warp.
template <class Real>
__device__ inline Best<Real> best_of_team(Best<Real> best, int team, Best<Real>* shared) {
    for (int lane_xor = min(team, WARP) / 2; lane_xor > 0; lane_xor /= 2)
        best.take(best.from_lane(lane_xor));
    if (team > WARP) {
        const int warp = threadIdx.x / WARP;
        __syncthreads();  // the last call's results have been read
        if (threadIdx.x % WARP == 0) shared[warp] = best;
        __syncthreads();
        if (threadIdx.x % team == 0)
            for (int other = 1; other < team / WARP; ++other) best.take(shared[warp + other]);
    }
    return best;
}
