"""What NVRTC makes of the CUDA kernels, without a GPU."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from dpo.kernels import codes, noise
from dpo.kernels.cuda import calls, offline, sources

pytest.importorskip("cuda.bindings.nvrtc")

ARCHITECTURES = ("sm_75", "sm_90")
"""Of those that kernels are for, the oldest and the one they are tuned for."""
HOT = [
    "Draw<float, GUMBEL, RACE, INDEPENDENT, SCORE, false, true>",
    "Draw<float, NORMAL, ADDITIVE, INDEPENDENT, SCORE, false, true>",
    "Draw<float, LOGISTIC, ADDITIVE, INDEPENDENT, SCORE, false, true>",
    "Draw<float, GUMBEL, RACE, INDEPENDENT, SCORE, false, false>",
    "Draw<float, NORMAL, ADDITIVE, INDEPENDENT, SCORE, false, false>",
    "Draw<float, LOGISTIC, ADDITIVE, INDEPENDENT, SCORE, false, false>",
]
"""What training calls: the fast ones first."""
HEAVY = [
    "Draw<float, GUMBEL, ADDITIVE, ANTITHETIC, SCALE_SCORE, true, false>",
    "Draw<double, NORMAL, MULTIPLICATIVE, ANTITHETIC, SCALE_SCORE, true, false>",
]
"""What needs the most registers."""

REGISTERS = {
    "argmax.cu": {
        "prepare<{}>": 64,
        "decide<{}, false>": 128,
        "weigh<{}, double>": 64,
        "perturbed_values<{}, double>": 80,
    },
    "accumulate.cu": {
        "vjp<{}, true>": 144,
        "score_products<{}>": 96,
        "jacobian<{}, OneHot, true>": 240,
        "moments<{}, OneHot>": 160,
    },
    "topk.cu": {
        "topk<{}, OneWarp, 512>": 255,
        "topk<{}, WholeBlock, 0>": 192,
        "topk_in_lanes<{}>": 96,
    },
    "ranks.cu": {
        "ranks<{}, OneWarp, 512>": 255,
        "ranks<{}, WholeBlock, 0>": 192,
        "ranks_in_lanes<{}>": 96,
    },
    "grid_path.cu": {
        "grid_path<{}, OneWarp, 324>": 208,
        "grid_path<{}, WholeBlock, 0>": 208,
        "path_trees<{}, 324>": 64,
    },
    "shard.cu": {"best_k<{}>": 96},
}
"""Kernels and how many registers their heaviest instance may use."""

HOT_REGISTERS = {
    "argmax.cu": {"decide<{}, false>": 64, "decide<{}, true>": 80},
    "accumulate.cu": {"vjp<{}, true>": 64},
    "topk.cu": {
        "topk<{}, OneWarp, 128>": 128,
        "topk<{}, OneWarp, 1024>": 255,
        "topk<{}, WholeBlock, 1024>": 80,
    },
    "ranks.cu": {
        "ranks<{}, OneWarp, 128>": 128,
        "ranks<{}, OneWarp, 512>": 128,
        "ranks<{}, OneWarp, 1024>": 255,
        "ranks<{}, WholeBlock, 1024>": 80,
    },
    "grid_path.cu": {
        "grid_path<{}, OneWarp, 324>": 96,
        "grid_path<{}, WholeBlock, 1156>": 80,
        "path_trees<{}, 4356>": 48,
    },
    "shard.cu": {"best_k<{}>": 64},
}
"""With ``HOT`` noise: several blocks then fit on a multiprocessor."""
WIDE = "Draw<double, NORMAL, ADDITIVE, INDEPENDENT, SCORE, false, false>"
LARGEST = [
    f"topk<{HOT[4]}, WholeBlock, 4096>",
    f"ranks<{HOT[4]}, WholeBlock, 4096>",
    f"grid_path<{HOT[4]}, WholeBlock, 4356>",
    f"grid_path<{HOT[4]}, OneWarp, 1156>",
    f"path_trees<{HOT[4]}, 4356>",
    f"ranks<{WIDE}, WholeBlock, 2048>",
    f"ranks<{HOT[4]}, OneWarp, 1024>",
    f"ranks_in_lanes<{WIDE}>",
    f"grid_path<{WIDE}, OneWarp, 324>",
]
"""What needs the most shared memory."""

_LAWS = [f"{real}, {family}" for real in ("float", "double") for family in range(3)]
EXACT_REGISTERS = {
    "exact_argmax.cu": {
        "locate_winners<double>": 64,
        "exact_argmax<double, GUMBEL, MOMENTS>": 112,
        **{f"exact_argmax<{law}, SECOND>": 112 for law in _LAWS},
        **{f"exact_argmax_jacobian<{law}>": 160 for law in _LAWS[3:]},
    },
    "exact_ranks.cu": {
        **{f"exact_ranks_pairs<{law}, SECOND>": 64 for law in _LAWS},
        **{f"exact_ranks_nodes<{law}, SECOND>": 96 for law in _LAWS},
    },
    "exact_topk.cu": {
        "settle": 96,
        **{f"exact_topk<{family}, {parts}>": 160 for family in range(3) for parts in (1, 4)},
    },
}
"""Likewise, of exact expectations."""


@pytest.mark.parametrize("file", EXACT_REGISTERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_spilled_by_exact_expectations(architecture, file):
    bounds = EXACT_REGISTERS[file]
    compiled = {
        k.name: k for k in offline.compile_kernels(file, list(bounds), architecture).kernels
    }
    for name, bound in bounds.items():
        assert compiled[name].spilled == 0, compiled[name]
        assert compiled[name].registers <= bound, compiled[name]
        assert compiled[name].shared < 16 * 1024


@pytest.mark.parametrize("file", REGISTERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_spilled(architecture, file):
    bounds = {k.format(draw): b for k, b in REGISTERS[file].items() for draw in HEAVY}
    bounds |= {k.format(HOT[4]): b for k, b in HOT_REGISTERS[file].items()}
    compiled = offline.compile_kernels(file, list(bounds), architecture)
    seen = {kernel.name for kernel in compiled.kernels}
    assert seen >= set(bounds)
    for kernel in compiled.kernels:
        assert kernel.spilled == 0 and kernel.stack == 0, kernel
        assert kernel.registers <= bounds.get(kernel.name, 64), kernel


@pytest.mark.parametrize("architecture", sorted({*offline.ARCHITECTURES} - {*ARCHITECTURES}))
def test_the_other_architectures_are_compiled_for(architecture):
    kernel = f"decide<{HOT[4]}, false>"
    compiled = offline.compile_kernels("argmax.cu", [kernel], architecture).kernels
    assert kernel in {k.name for k in compiled if k.spilled == 0}


@pytest.mark.parametrize("file", ["argmax.cu", "accumulate.cu", "shard.cu"])
def test_shards_spill_nothing(file):
    """Whose coordinates do not begin with 0: a sum more for every quad."""
    draw = HOT[4].replace(">", ", true>")
    bounds = {k.format(draw): b for k, b in HOT_REGISTERS[file].items()}
    compiled = {k.name: k for k in offline.compile_kernels(file, list(bounds), "sm_90").kernels}
    for name, bound in bounds.items():
        assert compiled[name].spilled == 0 and compiled[name].registers <= bound, compiled[name]


@pytest.mark.parametrize("file", REGISTERS)
def test_tabulated_noise_spills_nothing(file):
    """Its loads are in flight together: more registers than a formula, but none in memory."""
    draws = [
        "Draw<float, TABULATED, ADDITIVE, INDEPENDENT, SCORE, false, false>",
        "Draw<double, TABULATED, ADDITIVE, ANTITHETIC, SCALE_SCORE, true, false>",
    ]
    kernels = [kernel.format(draw) for kernel in REGISTERS[file] for draw in draws]
    compiled = offline.compile_kernels(file, kernels, "sm_90").kernels
    assert {kernel.name for kernel in compiled} >= set(kernels)
    assert [kernel for kernel in compiled if kernel.spilled] == []


@pytest.mark.parametrize("kernel", LARGEST)
def test_shared_memory_fits(kernel):
    """48 kB are what every GPU gives a block without being asked for more."""
    file = calls.FILES[kernel.partition("<")[0]]
    (compiled,) = (
        k for k in offline.compile_kernels(file, [kernel], "sm_75").kernels if k.name == kernel
    )
    assert 16 * 1024 <= compiled.shared <= 48 * 1024 and compiled.spilled == 0


def test_a_spill_is_seen():
    """With a quarter of the registers."""
    kernel = f"jacobian<{HEAVY[1]}, OneHot, true>"
    text = sources.expanded("accumulate.cu").replace("MAX_THREADS = 256", "MAX_THREADS = 1024")
    compiled = offline.compile_text(text, "accumulate.cu", [kernel], "sm_90")
    assert [k.name for k in compiled.kernels if k.spilled] == [kernel]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_early_rejection_spills_nothing(architecture):
    """Of every noise that is rejected early; ``argmax.cu`` of tabulated noise has none."""
    heavy = [
        "ADDITIVE, ANTITHETIC, SCALE_SCORE, true, false",
        "ADDITIVE, SOBOL, SCORE, true, false",
    ]
    draws = [d for d in HOT if "NORMAL" not in d or d.endswith("false>")]
    draws += [f"Draw<double, {f}, {h}>" for f in ("NORMAL", "GUMBEL", "LOGISTIC") for h in heavy]
    kernels = [f"decide<{draw}, true>" for draw in draws]
    compiled = {
        k.name: k for k in offline.compile_kernels("argmax.cu", kernels, architecture).kernels
    }
    for kernel in kernels:
        code = compiled[kernel]
        assert code.spilled == 0 and code.stack == 0, code
        assert code.registers <= (128 if "double" in kernel else 80), code


@pytest.mark.skipif(offline.nvdisasm() is None, reason="needs nvdisasm")
@pytest.mark.parametrize("draw", HOT)
def test_instructions_per_coordinate(draw):
    """Of the argmax's inner loop: with what an H200 issues a second, a bound on its speed."""
    bound = 24 if draw.endswith("true>") else 70
    assert 10 < offline.instructions_per_coordinate("argmax.cu", f"decide<{draw}, false>") <= bound


def test_errors_of_nvrtc_are_told():
    with pytest.raises(RuntimeError, match='"nonsense" is undefined'):
        offline.compile_kernels("argmax.cu", ["nonsense"], "sm_90")


# ------------------------------------------------------------------------------------- sources


def test_codes_are_those_of_python():
    enums = re.findall(r"enum \w+ \{ ([^}]+) \};", (sources.FOLDER / "codes.cuh").read_text())
    names = [name for enum in enums for name in enum.split(", ")]
    assert len(names) == 12
    for enum in enums:
        for value, name in enumerate(enum.split(", ")):
            assert getattr(codes, name, getattr(noise, name, None)) == value, name


def test_every_include_is_in_the_text(monkeypatch):
    """An edit in any header makes another text, and so another cubin."""
    text = sources.expanded("argmax.cu")
    assert "#include" not in text and text.count("philox4x32(u32 c0") == 1
    original = sources.Path.read_text

    def edited(path, **arguments):
        return original(path, **arguments) + ("// edited\n" if path.name == "bits.cuh" else "")

    monkeypatch.setattr(sources.Path, "read_text", edited)
    assert sources.expanded.__wrapped__("argmax.cu") != text


def test_sources_are_installed():
    """Real files beside ``launch.py``: wheels must carry them."""
    assert {"argmax.cu", "accumulate.cu", "philox.cuh"} <= {
        p.name for p in sources.FOLDER.iterdir()
    }


def test_importing_the_launch_code_imports_no_cupy():
    modules = "sys, dpo, dpo.kernels.cuda.launch, dpo.kernels.cuda.exact_launch"
    code = f"import {modules}; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
