"""Classic tests of a random number generator, on the words in the very order the kernels use them.

Philox fills an array of words, samples x rows x coordinates. Read along coordinates, along samples
or along rows it must look random each time. The tests here are small; the external batteries,
PractRand and dieharder, are run on the same stream where they are installed.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
from dpo.kernels.philox import STREAM_NOISE
from dpo.kernels.reference import noise_words
from scipy import stats

from ._results import Check, Section, Skip
from ._scores import zcheck
from ._settings import Settings
from ._statistics import chi_square_scores, mean_scores, score_of

_ROWS, _D = 64, 64
ORDERS = {"coordinates": (0, 1, 2), "samples": (2, 1, 0), "rows": (0, 2, 1)}
"""The axis that the stream runs along first, and the order of (sample, row, coordinate)."""


def run(settings: Settings) -> Section:
    """Built-in tests along every axis; external batteries where there are any."""
    seed = settings.seed_for("battery")
    checks = []
    for along, order in ORDERS.items():
        settings.tick(along)
        words = stream(seed, order, 0, settings.pick(256, 4096))
        scores = {name: test(words) for name, test in TESTS.items()}
        statement = "bytes, pairs of bytes, ranks, birthdays, weights and turns are random"
        checks.append(zcheck(f"Words along {along}", statement, scores, f"{words.size:,} words"))
    skipped = []
    for name, (program, external) in _EXTERNAL.items():
        settings.tick(name)
        if settings.size == "quick":
            skipped.append(Skip(name, "not part of the quick suite"))
        elif shutil.which(program):
            checks.append(external(seed, settings))
        else:
            skipped.append(Skip(name, f"{program} is not installed: {_HOW[name]}"))
    return Section(
        title="Battery",
        intro="Tests of Marsaglia's and Knuth's kind on the words under the noise, read along the "
        "coordinates of a sample, along the samples of a coordinate, and along the rows of a "
        "batch: χ² of bytes and of pairs of bytes, ranks of binary 32 × 32 matrices, birthday "
        "spacings, Hamming weights of neighbours, and turning points.",
        checks=tuple(checks),
        skipped=tuple(skipped),
    )


def stream(seed: int, order: tuple[int, ...], first: int, samples: int) -> np.ndarray:
    """The words of ``samples`` samples from ``first`` on, in that order, (n,) uint32."""
    key = seed % 2**32, seed // 2**32
    rows = np.arange(_ROWS)
    words = noise_words(STREAM_NOISE, np.arange(first, first + samples), rows, _D, key)
    return np.ascontiguousarray(words.transpose(order)).ravel()


# ---------------------------------------------------------------------------------- built-in tests


def _bytes(words: np.ndarray) -> np.ndarray:
    """Each of a word's four bytes takes 256 values equally often."""
    counts = [np.bincount((words >> shift) & 255, minlength=256) for shift in (0, 8, 16, 24)]
    return np.array([_uniform(c) for c in counts])


def _pairs(words: np.ndarray) -> np.ndarray:
    """High bytes of neighbours, and low bytes, take 65,536 pairs of values equally often."""
    a, b = words[: words.size // 2 * 2].reshape(-1, 2).T.astype(np.int64)
    high = (a >> 24) << 8 | b >> 24
    low = (a & 255) << 8 | (b & 255)
    return np.array([_uniform(np.bincount(x, minlength=2**16)) for x in (high, low)])


def _uniform(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2).sum() / expected
    return float(chi_square_scores(statistic, counts.size - 1))


_RANKS = np.array([0.1336357, 0.5775762, 0.2887881])
"""Of a random binary 32 x 32 matrix: rank 30 or less, 31, 32."""


def _matrices(words: np.ndarray) -> np.ndarray:
    """Ranks of 32 words as the rows of a binary matrix."""
    rows = words[: words.size // 32 * 32].reshape(-1, 32).copy()
    rank, places = np.zeros(len(rows), np.int64), np.arange(32)
    for bit in range(32):
        has = ((rows >> np.uint32(bit)) & 1).astype(bool) & (places >= rank[:, None])
        pivot = has.argmax(1)
        found = np.flatnonzero(has.any(1))
        here, there = rank[found], pivot[found]
        rows[found, here], rows[found, there] = rows[found, there], rows[found, here].copy()
        below = ((rows[found] >> np.uint32(bit)) & 1).astype(bool) & (places > here[:, None])
        rows[found] ^= np.where(below, rows[found, here][:, None], np.uint32(0))
        rank[found] += 1
    counts = np.array([(rank <= 30).sum(), (rank == 31).sum(), (rank == 32).sum()])
    expected = len(rows) * _RANKS
    return np.array([chi_square_scores(((counts - expected) ** 2 / expected).sum(), 2)])


_BIRTHDAYS = 4096


def _birthdays(words: np.ndarray) -> np.ndarray:
    """Spacings of 4096 birthdays in a year of 2^32 days: repeats are Poisson, 4 on average."""
    days = np.sort(words[: words.size // _BIRTHDAYS * _BIRTHDAYS].reshape(-1, _BIRTHDAYS), axis=1)
    spacings = np.sort(np.diff(days, axis=1), axis=1)
    repeats, mean = int((np.diff(spacings, axis=1) == 0).sum()), 4.0 * len(days)
    upper, lower = stats.poisson.sf(repeats - 1, mean), stats.poisson.cdf(repeats, mean)
    return np.array([score_of(2 * min(upper, lower))])


_ONES = np.array([bin(byte).count("1") for byte in range(256)])


def _weights(words: np.ndarray) -> np.ndarray:
    """The numbers of ones in neighbours are uncorrelated, 1 to 4 apart; their mean is 16."""
    weight = _ONES[words.view(np.uint8)].reshape(-1, 4).sum(1) - 16.0
    scores = [mean_scores(weight[lag:] * weight[:-lag], 0.0) for lag in (1, 2, 3, 4)]
    return np.array([mean_scores(weight, 0.0), *scores])


def _turns(words: np.ndarray) -> np.ndarray:
    """Two of three inner words are larger, or smaller, than both of their neighbours."""
    up = words[1:] > words[:-1]
    count, n = int((up[1:] != up[:-1]).sum()), words.size
    return np.array([(count - 2 * (n - 2) / 3) / np.sqrt((16 * n - 29) / 90)])


TESTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bytes": _bytes,
    "pairs": _pairs,
    "matrices": _matrices,
    "birthdays": _birthdays,
    "weights": _weights,
    "turns": _turns,
}


# ------------------------------------------------------------------------------- external batteries

_DIEHARDER = {0: "birthdays", 2: "32 × 32 ranks", 15: "runs", 100: "monobit", 102: "serial"}
_LEAST = 1e-8
"""dieharder prints eight decimals; eleven p-values may be as small as this once in ten million."""


def _blocks(seed: int) -> Iterator[bytes]:
    """The stream along coordinates, for ever."""
    first, samples = 0, 256
    while True:
        yield stream(seed, ORDERS["coordinates"], first, samples).tobytes()
        first = (first + samples) % 2**32


def _fed(command: list[str], seed: int) -> str:
    """What the program prints, its standard input being the stream until it has had enough."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin and process.stdout
    with contextlib.suppress(BrokenPipeError):
        for block in _blocks(seed):
            process.stdin.write(block)
    text = process.stdout.read().decode(errors="replace")
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()
    return text


def _dieharder(seed: int, settings: Settings) -> Check:
    """Reads raw words from standard input (generator 200)."""
    smallest, worst, count = 1.0, "nothing", 0
    for test, name in settings.pick(dict(list(_DIEHARDER.items())[2:]), _DIEHARDER).items():
        for line in _fed(["dieharder", "-g", "200", "-d", str(test)], seed).splitlines():
            fields = [field.strip() for field in line.split("|")]
            if len(fields) == 6 and fields[4].replace(".", "").isdigit():
                p, count = float(fields[4]), count + 1
                if min(p, 1 - p) < smallest:
                    smallest, worst = min(p, 1 - p), name
    smallest = smallest if count else float("nan")
    statement = "no p-value is 0 or 1 to eight decimals: the most extreme"
    return Check("dieharder", statement, smallest, _LEAST, ">", f"{count} p-values; worst: {worst}")


def _practrand(seed: int, settings: Settings) -> Check:
    """Reads 32-bit words; says FAIL where a p-value is beyond doubt."""
    length = settings.pick("64MB", "16GB")
    text = _fed(["RNG_test", "stdin32", "-tlmax", length], seed)
    failures = sum("FAIL" in line for line in text.splitlines()) if "length=" in text else np.nan
    statement = "no test of PractRand's core set fails: failures"
    return Check("PractRand", statement, failures, 0, note=f"{length} of words")


_EXTERNAL: dict[str, tuple[str, Callable[[int, Settings], Check]]] = {
    "dieharder": ("dieharder", _dieharder),
    "PractRand": ("RNG_test", _practrand),
}
_HOW = {
    "dieharder": "apt-get install dieharder, or https://webhome.phy.duke.edu/~rgb/General/dieharder.php",
    "PractRand": "build it from https://pracrand.sourceforge.net and put RNG_test on the PATH",
}
