// How a launch is told what to do: kernels/codes.py and the family codes of kernels/noise.py.
#pragma once
#include "bits.cuh"

enum Family { NORMAL, GUMBEL, LOGISTIC, TABULATED };
enum Kind { ADDITIVE, RACE, MULTIPLICATIVE };
enum Design { INDEPENDENT, ANTITHETIC, SOBOL };
enum Weighting { SCORE, SCALE_SCORE };

// Which noise, as a type: what a kernel is compiled for.
template <class Real_, int FAMILY, int KIND, int DESIGN, int WEIGHTING, bool PER_COORDINATE,
          bool FAST, bool IS_SHARD = false>
struct Draw {
    using Real = Real_;
    static constexpr int family = FAMILY;
    static constexpr int kind = KIND;
    static constexpr int design = DESIGN;
    static constexpr int weighting = WEIGHTING;
    static constexpr bool per_coordinate = PER_COORDINATE;  // a temperature each
    static constexpr bool fast = FAST;                      // special-function units; float32 only
    static constexpr bool is_shard = IS_SHARD;              // coordinates do not begin with 0
    static constexpr bool is_double = sizeof(Real) == 8;
    static constexpr bool paired = DESIGN == ANTITHETIC;
    // Blocks of 256 threads that share a multiprocessor at least, in the kernels that training
    // lives in: ptxas may then use 64 registers. What is rarer gets all it wants and spills
    // nothing.
    static constexpr int min_blocks =
        !is_double && DESIGN == INDEPENDENT && WEIGHTING == SCORE && !PER_COORDINATE ? 4 : 1;
    // Early rejection (reject.cuh) unrolls more words in 80 registers.
    static constexpr int min_blocks_rejecting = min_blocks == 4 ? 3 : 1;
    // Box-Muller is no quantile: mirrored samples and Sobol' points need one.
    static constexpr bool box_muller = FAST && FAMILY == NORMAL && DESIGN == INDEPENDENT;
};
