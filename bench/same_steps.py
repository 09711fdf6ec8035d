"""Five updates of the default recipe over what their rows need, and over the whole graph: the same parameters.

    python bench/same_steps.py             # zh_en and FB15K_DB15K
    python bench/same_steps.py --record

A view sums in another order, so that the two differ by rounding. RMSprop divides a gradient by its size, and makes of
the rounding of next to nothing a part of a step. What that comes to is told by the same updates in float64: there the
two must agree to rounding of that, and the distance of float32 from it says what rounding does to either.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench._record import record  # noqa: E402
from loginmea_fast import AlignmentGraph, data  # noqa: E402
from loginmea_fast.graph import View  # noqa: E402
from loginmea_fast.nn import Features, members_of  # noqa: E402
from loginmea_fast.runs import Problem, assemble, build_model  # noqa: E402
from loginmea_fast.training import Config  # noqa: E402
from loginmea_fast.training.loop import Trainer  # noqa: E402

DATASETS = ("dbp15k/zh_en", "mmkb/FB15K_DB15K")
UPDATES = 5


class WholeGraph(AlignmentGraph):
    """A graph whose views are always of everything."""

    def view(self, rows: Tensor | None = None, depth: int = 2) -> View:
        """The rows, taken from the whole."""
        return View(self, rows)


class Errors(NamedTuple):
    """Relative L2 errors after the updates.

    Attributes:
        loss: largest of the losses', in float32.
        together: of all parameters as one vector, view against whole, in float32.
        worst: of the parameter that is off most.
        exact: of the parameter that is off most in float64.
        rounding: of the whole graph's parameters as one vector, float32 against float64.
    """

    loss: float
    together: float
    worst: float
    exact: float
    rounding: float


def load_problem(path: Path) -> Problem:
    """A data set as the default recipe takes it, without names."""
    return assemble(data.load(path, modalities=["relation", "attribute"]), Config(), None)


def updated(problem: Problem, whole: bool, dtype: torch.dtype) -> tuple[dict[str, Tensor], list[float]]:
    """Parameters after the updates, and the losses."""
    graph = problem.graph
    if whole:
        tensors = {
            name: getattr(graph, name) for name in vars(graph) if isinstance(getattr(graph, name), Tensor)
        }
        graph = WholeGraph(graph.num_entities, graph.num_relations, tensors)
    values = {name: feature.to(dtype) for name, feature in problem.features.items()}
    problem = replace(problem, graph=graph, features=Features(values, problem.features.present))
    model = build_model(problem, Config()).to(dtype)
    for member in members_of(model):
        member.compute_dtype = dtype
    trainer = Trainer(problem, model, Config())
    losses = [trainer.updates.step(0, update % 2).loss.item() for update in range(UPDATES)]
    return {name: p.detach() for name, p in model.named_parameters()}, losses


def compare(problem: Problem) -> Errors:
    """View and whole graph, float32 and float64."""
    (whole, losses), (some, same) = (updated(problem, by, torch.float32) for by in (True, False))
    (exact, _), (exact_some, _) = (updated(problem, by, torch.float64) for by in (True, False))
    return Errors(
        max(abs(a - b) / abs(a) for a, b in zip(losses, same, strict=True)),
        _off(_together(some), _together(whole)),
        max(_off(some[name], p) for name, p in whole.items()),
        max(_off(exact_some[name], p) for name, p in exact.items()),
        _off(_together(whole), _together(exact)),
    )


def _off(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth.double()).norm() / truth.double().norm()).item()


def _together(parameters: dict[str, Tensor]) -> Tensor:
    return torch.cat([p.reshape(-1) for p in parameters.values()])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    root = Path(os.environ.get("LOGINMEA_DATA") or ROOT.parent / "shared" / "data")
    rows = []
    for name in DATASETS:
        if not (root / name).is_dir():
            raise SystemExit(f"no data at {root / name}; set LOGINMEA_DATA")
        found = compare(load_problem(root / name))
        rows.append({"dataset": Path(name).name, "updates": UPDATES, **found._asdict()})
        print(*(f"{key} {value:.1e}" for key, value in found._asdict().items()), name, flush=True)
    if args.record:
        record("same_steps", rows, note="default recipe on relations and attributes")


if __name__ == "__main__":
    main()
