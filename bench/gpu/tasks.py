"""What a run does, in its order: stages, and their tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GPU_BACKENDS", "HOPPER", "OPERATORS", "STAGES", "TASKS", "WAYS", "Stage", "Task"]

OPERATORS = ("relation_reflection_attention", "low_rank_fusion", "contrastive_loss", "alignment_search")
GPU_BACKENDS = {op: ("triton", "cuda") for op in OPERATORS[:2]} | {op: ("triton",) for op in OPERATORS[2:]}
# Ways that serve where an environment variable asks for them, until a record says that they win.
HOPPER = {"LOGINMEA_HOPPER": "1"}
_LONG = {"LOGINMEA_FUSION_ROWS": "8192"}
WAYS: dict[str, dict[str, tuple[str, dict[str, str]]]] = {  # operator -> provider -> backend, variables
    "relation_reflection_attention": {"cuda, Hopper's own ways": ("cuda", HOPPER)},
    "low_rank_fusion": {
        "triton, blocks of 8,192 rows": ("triton", _LONG),
        "cuda, blocks of 8,192 rows": ("cuda", _LONG),
        "cuda, Hopper's own ways": ("cuda", HOPPER),
        "cuda, Hopper's own ways, blocks of 8,192 rows": ("cuda", HOPPER | _LONG),
    },
}
ROOT = Path(__file__).resolve().parents[2]
FAULTS = len(json.loads((ROOT / "tests" / "emulation" / "faults.json").read_text())["rows"])


@dataclass(frozen=True)
class Task:
    """Something that runs in a process of its own.

    Attributes:
        name: "stage/what".
        call: "module:function", in bench/gpu/.
        arguments: of the function, after the run.
        limit: seconds.
        needs_cuda: not even rehearsed without a GPU.
        hidden: started by another task, never by a stage.
    """

    name: str
    call: str
    arguments: tuple[str, ...] = ()
    limit: int = 60
    needs_cuda: bool = False
    hidden: bool = False

    @property
    def stage(self) -> str:
        """What comes before the slash."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Stage:
    """Tasks that belong together.

    Attributes:
        name: as --stages takes it.
        jobs: tasks at once; 1 where times are taken.
        background: started with the first stage; its place in the order is where it is waited for.
    """

    name: str
    jobs: int = 1
    background: bool = False


# What would be missed most comes first: a run may be cut at any point.
STAGES = (
    Stage("environment"),
    Stage("floors"),
    Stage("build", background=True),
    Stage("correctness", jobs=4),
    Stage("step"),
    Stage("operators"),
    Stage("sanitizer", jobs=4),
    Stage("prepare", background=True),
    Stage("largest"),
    Stage("choice"),
    Stage("tests", jobs=4),
    Stage("faults", jobs=8),
)


def _tasks() -> Iterator[Task]:
    yield Task("environment/card", "floors:environment")
    yield Task("floors/rates", "floors:floors")
    yield Task("build/cuda", "floors:build", limit=300, needs_cuda=True)
    for op in OPERATORS:
        for backend in GPU_BACKENDS[op]:
            yield Task(
                f"correctness/{op}/{backend}",
                f"correctness:{op}",
                (backend,),
                120,
                needs_cuda=backend == "cuda",
            )
    yield Task("correctness/modality_scale/triton", "correctness:modality_scale", ("triton",), 120)
    for precision in ("tf32", "bfloat16"):
        yield Task(f"step/ours in {precision}", "step:ours", (precision,), 90)
    yield Task("step/authors", "step:authors", limit=60)
    yield Task("step/clean", "step:clean", limit=120)
    for op in OPERATORS:
        yield Task(f"operators/{op}", f"providers:{op}", limit=240 if op == "low_rank_fusion" else 150)
    for op in (op for op in OPERATORS if "cuda" in GPU_BACKENDS[op]):
        yield Task(f"sanitizer/{op}/kernels", "sanitizer:small", (op,), 60, needs_cuda=True)
        for tool in ("memcheck", "racecheck"):
            yield Task(f"sanitizer/{op}/{tool}", "sanitizer:check", (op, tool), 120, needs_cuda=True)
        yield Task(f"small/{op}", "sanitizer:small", (op,), hidden=True)
    yield Task("prepare/graphs", "step:prepare", limit=400, needs_cuda=True)
    yield Task("largest/graphs", "step:largest", limit=120)
    yield Task("choice/widths", "providers:choice", limit=150)
    for op in OPERATORS:
        yield Task(f"tests/{op}", "suite:suite", (op,), 180, needs_cuda=True)
    for number in map(str, range(FAULTS)):
        yield Task(f"faults/{number}", "faults:check", (number,), 480, needs_cuda=True)
        yield Task(f"planted/{number}", "faults:case", (number,), hidden=True)


TASKS = {task.name: task for task in _tasks()}
