"""The uniform words under the noise: Random123's known answers, fair bits, independence."""

from __future__ import annotations

import numpy as np
from dpo.kernels.philox import STREAM_NOISE, STREAM_REFINE, philox4x32
from dpo.kernels.reference import noise_words

from ._results import Check
from ._settings import Settings
from ._statistics import Z_THRESHOLD, binomial_scores, correlation_scores, largest

# Counter, key and output of philox4x32-10, from Random123's file of known answers.
_KNOWN_ANSWERS = (
    "00000000 00000000 00000000 00000000  00000000 00000000  6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff  ffffffff ffffffff  408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344  a4093822 299f31d0  d16cfe09 94fdcceb 5001e420 24126ea1",
)


def known_answers() -> Check:
    """Twelve words, all of which must be right."""
    wrong = 0
    for line in _KNOWN_ANSWERS:
        numbers = [np.uint64(int(word, 16)) for word in line.split()]
        wrong += sum(
            int(a != b) for a, b in zip(philox4x32(*numbers[:6]), numbers[6:], strict=True)
        )
    statement = "philox4x32-10 returns the 12 words of Random123's three known answers"
    return Check("Philox known answers", statement, wrong, 0, note="words that differ")


def independence(settings: Settings) -> list[Check]:
    """Neighbours of every kind, as pairs of centred uniform words; and single bits."""
    samples, rows, d = settings.pick(2**14, 2**17), 5, 32
    seed = settings.seed_for("independence") % 2**32, 0

    def uniforms(stream=STREAM_NOISE, seed=seed):
        return noise_words(stream, np.arange(samples), np.arange(rows), d, seed) * 2.0**-32 - 0.5

    u = uniforms()
    pairs = {
        "coordinates": [(u[..., k:], u[..., :-k]) for k in (1, 2, 3, 4, 8)],
        "samples": [(u[k:], u[:-k]) for k in (1, 2, 32, 256)],
        "batch rows": [(u[:, k:], u[:, :-k]) for k in (1, 2, 4)],
        "streams": [(u, uniforms(stream=STREAM_REFINE))],
        "seeds": [(u, uniforms(seed=(seed[0] ^ 1, 0))), (u, uniforms(seed=(seed[0], 1)))],
    }
    checks = []
    for between, arrays in pairs.items():
        scores = np.concatenate([correlation_scores(a, b) for a, b in arrays])
        statement = (
            f"words of different {between} are uncorrelated, and so are their squares: max |z|"
        )
        note = f"{len(arrays)} lags or pairs of {u.size:,} words"
        checks.append(
            Check(
                f"Independent {between}",
                statement,
                largest(scores),
                Z_THRESHOLD,
                "<=",
                note,
                scores.size,
            )
        )
    words = noise_words(STREAM_NOISE, np.arange(samples), np.arange(rows), d, seed)
    ones = np.array([((words >> np.uint32(bit)) & 1).sum() for bit in range(32)])
    scores = binomial_scores(ones, words.size, np.full(32, 0.5))
    statement = "each of the 32 bits of a word is set half of the time: max |z|"
    note = f"binomial, {words.size:,} words"
    checks.append(Check("Fair bits", statement, largest(scores), Z_THRESHOLD, "<=", note, 32))
    return checks
