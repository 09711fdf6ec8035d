"""Plants faults in the CUDA kernels, one at a time, and looks whether the emulated tests see each.

    python -m tests.emulation.faults               # all, with two orders of threads; minutes
    python -m tests.emulation.faults "a mask"      # those whose kernel or name contains this

The record is faults.json beside this file, with a digest of the sources that it is of where all faults were planted;
scripts/render_faults.py writes it into docs/gpu.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from loginmea_fast.native.toolchain import jobs
from tests.emulation import library
from tests.emulation.test_kernels import ATTENTION, FORMULA, GROUPS

__all__ = ["FAULTS", "RECORD", "SEEN", "Fault", "digest_of_sources", "planted"]

RECORD = Path(__file__).with_name("faults.json")
SEEDS = (1, 2)
SEEN = {"wrong number", "emulator", "address sanitizer"}  # how a fault can show

HUB = f"{ATTENTION}test_layers_and_every_gradient[cuda-hub-triple-torch.float32]"
ODD = f"{ATTENTION}test_layers_and_every_gradient[cuda-self loops-relation-torch.float32]"
CUT = f"{ATTENTION}test_rows_cut_into_parts[cuda-relation]"
VIEW = "views.py::test_layers_of_a_view[cuda-parallel-triple-torch.float32]"
DEEP = f"{FORMULA}[cuda-(6, 2, (128, 300, 301), 16)-torch.float32-scaled]"
DEEP_GROUPS = f"{GROUPS}[(6, 2, (128, 300, 301), 16)-tf32-again]"
ODD_GROUPS = f"{GROUPS}[(7, 3, (5,), 63)-tf32-again]"
MANY = f"{FORMULA}[cuda-(9, 2, (4, 1, 2, 3, 2, 6), 33)-torch.float32-scaled]"
WIDE = f"{ATTENTION}test_rows_as_wide_as_every_layout[cuda-1024-torch.float32-triple]"
ODD_WIDE = f"{ATTENTION}test_rows_as_wide_as_every_layout[cuda-330-torch.float32-triple]"
RING = f"{ATTENTION}test_cuda_rings_bring_the_same_rows[8-torch.float32-relation]"
NARROW_RING = f"{ATTENTION}test_cuda_rings_bring_the_same_rows[24-torch.bfloat16-triple]"
WIDE_RING = f"{ATTENTION}test_cuda_rings_bring_the_same_rows[192-torch.float32-relation]"
DOUBLE_RING = f"{ATTENTION}test_cuda_rings_bring_the_same_rows[30-torch.float64-triple]"
NARROW = f"{FORMULA}[cuda-(400, 2, (65, 64, 63), 130)-torch.bfloat16-plain]"


class Fault(NamedTuple):
    """One text in a source in place of another.

    Attributes:
        name: what is wrong, for the table.
        kernel: where.
        source: file below csrc/cuda.
        old: what stands there.
        new: what is planted.
        case: of tests/ops, which must pass without the fault and fail with it.
        place: which of several occurrences of `old`, from 0.
        sanitize: the case runs under the address sanitizer.
    """

    name: str
    kernel: str
    source: str
    old: str
    new: str
    case: str
    place: int = 0
    sanitize: bool = False


_A, _F, _G, _R, _S, _T = (
    f"{name}.cuh"
    for name in ("relation_reflection_attention", "low_rank_fusion", "warpgroup", "rows", "segments", "tile")
)

FAULTS = (
    Fault("the last edge is left out", "walk", _S, "e < stop; ++e", "e < stop - 1; ++e", HUB),
    Fault(
        "an edge too many, of the next row", "walk", _S, "e < stop; ++e", "e <= stop; ++e", HUB, sanitize=True
    ),
    Fault(
        "the last row of a block is left out",
        "run",
        _S,
        "{blocks(segments.count, kSegmentWarps)}",
        "{segments.count / kSegmentWarps}",
        HUB,
    ),
    Fault("no barrier before partial sums are joined", "join", _S, "__syncthreads();", "", HUB),
    Fault(
        "peaks of partial sums are not heeded",
        "Forward::join",
        _A,
        "take(sum, other.scalar[0], other.scalar[1]",
        "take(sum, sum.scalar[0], other.scalar[1]",
        HUB,
    ),
    Fault("partial slopes are not added", "PlainSums::join", _A, "sum.scalar[i] += other.scalar[i]", "", CUT),
    Fault(
        "the last warp's partial sum is forgotten",
        "join",
        _S,
        "other < kJoiners",
        "other < kJoiners - 1",
        CUT,
    ),
    Fault(
        "a mask one column short",
        "Row::load",
        _R,
        "column, column < width",
        "column, column + 1 < width",
        HUB,
    ),
    Fault("a layout narrower than its rows", "with_layout", _S, "Layout<S, 4, 8>", "Layout<S, 4, 7>", WIDE),
    Fault(
        "one column at a time, and too few",
        "with_layout",
        _S,
        "Layout<S, 1, 16>",
        "Layout<S, 1, 10>",
        ODD_WIDE,
    ),
    Fault(
        "a modality fewer than there are",
        "with_parts",
        "low_rank_fusion_dispatch.cuh",
        "std::integral_constant<int, 6>",
        "std::integral_constant<int, 5>",
        MANY,
    ),
    Fault("a sum over half a warp", "sum_of_warp", _R, "int lanes = 16", "int lanes = 8", HUB),
    Fault(
        "a wrong derivative of tanh", "through_activation", _A, "(1 - v) * (1 + v)", "(1 - v) * (1 - v)", HUB
    ),
    Fault(
        "source in place of destination",
        "BackwardSet::edge",
        _A,
        "{set_source[k], set_destination[k]}",
        "{set_source[k], set_source[k]}",
        HUB,
    ),
    Fault(
        "two terms of an edge exchanged",
        "BackwardSource::edge",
        _A,
        "{of_u, -2 * a * p, dl,",
        "{-2 * a * p, of_u, dl,",
        HUB,
    ),
    Fault("a term along w that is half", "BackwardSource::edge", _A, "-2 * dl * p}", "-dl * p}", HUB),
    Fault(
        "cp.async waited for too late",
        "Pipeline::stage",
        _T,
        "wait_for_copies<kTileStages - 2>",
        "wait_for_copies<kTileStages - 1>",
        DEEP,
    ),
    Fault("no barrier after the wait", "Pipeline::stage", _T, "__syncthreads();", "", NARROW),
    Fault(
        "a copy into the stage that is read",
        "Pipeline::stage",
        _T,
        "fetch(i + kTileStages - 1)",
        "fetch(i + kTileStages)",
        DEEP,
    ),
    Fault(
        "a row off by one",
        "Pipeline::fetch",
        _T,
        "(row - Of::kRows) * total",
        "(row - Of::kRows + 1) * total",
        DEEP,
    ),
    Fault(
        "less shared memory than is used",
        "multiply",
        _T,
        "Of::kSharedBytes, stream",
        "Of::kSharedBytes - 32, stream",
        DEEP,
    ),
    Fault(
        "a stride between rows off by one word",
        "multiply_stage",
        _T,
        "(at.warp_row + at.lane / 4) * kTileStride",
        "(at.warp_row + at.lane / 4) * (kTileStride + 1)",
        DEEP,
    ),
    Fault(
        "two parts of a fragment exchanged",
        "multiply_stage",
        _T,
        "a[r][1] = from[8 * kTileStride], a[r][2] = from[4]",
        "a[r][2] = from[8 * kTileStride], a[r][1] = from[4]",
        NARROW,
    ),
    Fault(
        "a small term of the product left out",
        "multiply_stage",
        _T,
        "multiply_tf32(step_sum, a[r], b_low[c]);",
        "",
        DEEP,
    ),
    Fault(
        "the factor itself among the others",
        "ProjectionGradient::end",
        _F,
        "if (n != m) gradient",
        "gradient",
        DEEP,
    ),
    Fault(
        "a row read before it is there",
        "walk_ring",
        _S,
        "wait_for_barrier(&full[warp][slot], phase);",
        "",
        RING,
    ),
    Fault(
        "the wrong phase of a barrier",
        "walk_ring",
        _S,
        "slot = 0, phase = 0",
        "slot = 0, phase = 1",
        RING,
    ),
    Fault(
        "fewer bytes expected than come",
        "walk_ring",
        _S,
        "&full[warp][slot], bytes)",
        "&full[warp][slot], first_bytes)",
        RING,
    ),
    Fault("the row numbers of the wrong edges", "Ahead::at", _S, "of_lane(e + 32)", "of_lane(e + 31)", RING),
    Fault(
        "a row replaced before it is read",
        "walk_ring",
        _S,
        "    const R a = R::load(rein",
        "    ask(e + slots, slot);\n    const R a = R::load(rein",
        DOUBLE_RING,
    ),
    Fault(
        "shared memory that was not asked for",
        "launch",
        "launch.cuh",
        "shared > 32 << 10",
        "shared > 48 << 10",
        WIDE_RING,
    ),
    Fault(
        "boxes that are not swizzled",
        "tensor_map",
        "tensor_map.cu",
        "CU_TENSOR_MAP_SWIZZLE_128B",
        "CU_TENSOR_MAP_SWIZZLE_NONE",
        DEEP_GROUPS,
    ),
    Fault(
        "a stage handed back before it was multiplied",
        "group_products",
        _G,
        "wait_for_products<1>();",
        "wait_for_products<2>();",
        DEEP_GROUPS,
    ),
    Fault(
        "a stage read before it is there",
        "group_products",
        _G,
        "wait_for_barrier(&full[stage % Of::kStages], stage / Of::kStages % 2);",
        "",
        DEEP_GROUPS,
    ),
    Fault(
        "a stage filled while it is read",
        "group_products",
        _G,
        "wait_for_barrier(&empty[slot], (stage / Of::kStages + 1) % 2);",
        "",
        DEEP_GROUPS,
    ),
    Fault(
        "the wrong phase of a barrier",
        "group_products",
        _G,
        "(stage / Of::kStages + 1) % 2",
        "stage / Of::kStages % 2",
        DEEP_GROUPS,
    ),
    Fault(
        "fewer bytes expected than come",
        "group_products",
        _G,
        "expect_bytes(&full[slot], Of::kStage);",
        "expect_bytes(&full[slot], Of::kRows * kStageBytes);",
        DEEP_GROUPS,
    ),
    Fault(
        "a warp's stage handed back twice",
        "group_products",
        _G,
        "if (stage > start && first_lane())",
        "if (stage > start && threadIdx.x % 32 < 2)",
        DEEP_GROUPS,
    ),
    Fault("rows of an operand half as far apart", "operand_at", _G, "{1024 >> 4}", "{512 >> 4}", DEEP_GROUPS),
    Fault("an operand without its swizzle", "operand_at", _G, " | 1ull << 62", "", DEEP_GROUPS),
    Fault(
        "the rows of the other warpgroup",
        "multiply_group_stage",
        _G,
        "stage + group * 64",
        "stage + (1 - group) * 64",
        DEEP_GROUPS,
    ),
    Fault("a rank beyond the last", "group_products", _G, "if (k + among < last) ep", "ep", ODD_GROUPS),
    Fault("a load beyond the row", "Row::load", _R, "if (inside) pack =", "pack =", ODD, sanitize=True),
    Fault("a store beyond the row", "Row::store", _R, "if (inside) *rein", "*rein", ODD, sanitize=True),
    Fault(
        "four columns at a time where three are apart",
        "with_layout",
        _S,
        "aligned = width % 4 == 0",
        "aligned = true",
        ODD,
        sanitize=True,
    ),
)


def planted(fault: Fault) -> dict[str, str]:
    """The sources with the fault in them.

    Raises:
        ValueError: what the fault replaces is no longer there.
    """
    files = library.sources()
    name = f"cuda/{fault.source}"
    parts = files[name].split(fault.old)
    if len(parts) <= fault.place + 1:
        raise ValueError(f"{fault.source} no longer has {fault.old!r} ({fault.name})")
    before, after = parts[: fault.place + 1], parts[fault.place + 1 :]
    files[name] = fault.old.join(before) + fault.new + fault.old.join(after)
    return files


def digest_of_sources(root: Path = library.ROOT) -> str:
    """What a record is of: the names and contents of the kernels and of all that emulates and judges them."""
    total = hashlib.sha256()
    for folder in ("csrc/cuda", "tests/emulation"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and path.name != RECORD.name:
                total.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def judge(case: str, path: Path, seed: int, sanitize: bool) -> str:
    """What a case says of a library: "passed", "wrong number", "emulator" or "address sanitizer"."""
    environment = library.sanitized_environment() if sanitize else dict(os.environ)
    environment |= {library.SEED: str(seed), library.LIBRARY: str(path), "OMP_NUM_THREADS": "1"}
    # -s: what the sanitizer says before it ends the process would be lost with pytest's capture.
    command = [sys.executable, "-m", "pytest", "-qxs", "-p", "no:cacheprovider", f"tests/ops/test_{case}"]
    done = subprocess.run(command, cwd=library.ROOT, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return "passed" if re.search(r"\b1 passed", said) else f"not run: {said[-300:]}"
    if "AddressSanitizer" in said or "runtime error:" in said:
        return "address sanitizer"
    if re.search(r"RuntimeError: .*\(block \d", said):
        return "emulator"
    return "wrong number" if "AssertionError" in said else f"failed otherwise: {said[-300:]}"


def run(faults: tuple[Fault, ...]) -> Iterator[dict[str, Any]]:
    """A row a fault: what each order of threads said of it, after the sources as they are have passed the same case."""
    whole = {
        wanted: library.build(library.sources(), sanitize=wanted) for wanted in {f.sanitize for f in faults}
    }

    def verdicts(case: str, path: Path, sanitize: bool) -> list[str]:
        return [judge(case, path, seed, sanitize) for seed in SEEDS]

    def sound(case: tuple[str, bool]) -> None:
        seen = verdicts(case[0], whole[case[1]], case[1])
        assert set(seen) == {"passed"}, f"without any fault {case[0]} gives: {seen}"

    def plant(fault: Fault) -> dict[str, Any]:
        path = library.build(planted(fault), sanitize=fault.sanitize)
        seen = verdicts(fault.case, path, fault.sanitize)
        return {"fault": fault.name, "kernel": fault.kernel, "case": fault.case, "seen": seen}

    with ThreadPoolExecutor(jobs()) as pool:  # each waits for compilers and for tests
        list(pool.map(sound, sorted({(fault.case, fault.sanitize) for fault in faults})))
        yield from pool.map(plant, faults)


def main(wanted: str = "") -> int:
    """Plants the faults whose kernel or name contains `wanted`; the record keeps what it says of the others."""
    kept, record, digest = {}, {"seeds": list(SEEDS)}, digest_of_sources()
    if wanted and RECORD.exists():
        record = json.loads(RECORD.read_text())
        kept = {(row["kernel"], row["fault"]): row for row in record["rows"]}
    for row in run(tuple(fault for fault in FAULTS if wanted in f"{fault.kernel}: {fault.name}")):
        kept[row["kernel"], row["fault"]] = row
        print(f"{row['kernel']}: {row['fault']}: {', '.join(row['seen'])}", flush=True)
        rows = [kept[key] for f in FAULTS if (key := (f.kernel, f.name)) in kept]
        _write(record | {"rows": rows})
    if not wanted:
        _write({"seeds": list(SEEDS), "sources": digest, "rows": rows})
    caught = sum(set(row["seen"]) <= SEEN for row in rows)
    print(f"{caught} of {len(rows)} faults seen with each of {len(SEEDS)} orders of threads")
    return 0 if caught == len(FAULTS) else 1


def _write(record: dict[str, Any]) -> None:
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
