"""A training step over what its rows depend on, beside the same step over the whole graph.

    python bench/views.py             # zh_en: 1, 10, 30 and 60 % of the links, and an update of the default recipe
    python bench/views.py --record

One forward and backward pass of the default model (channels of relations and attributes beside the graph encoder, 64
wide) with the contrastive loss of the links; of the recipe's update the rows of further entities are embedded too. They
take turns; a view is made anew for every step, as in training, and its time counts.

Beside them the optimiser: RMSprop of the whole table of entities, and of the rows alone that have a gradient, with the
same numbers since a row catches up with the decay when its turn comes. It says what such an optimiser could save.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench._record import record  # noqa: E402
from loginmea_fast import AlignmentGraph, LoginMEA, data, ops  # noqa: E402
from loginmea_fast.graph import View  # noqa: E402

WIDTH, BATCH, FURTHER = 64, 1024, 2000
# Largest relative L2 error of a gradient against the whole graph's: both are float32.
BOUND = 1e-4


def gradients(model: LoginMEA, features: dict[str, Tensor], view: View, links: int) -> dict[str, Tensor]:
    """One pass; gradients by parameter."""
    model.zero_grad(set_to_none=True)
    joint = model(features, view).joint
    loss = ops.contrastive_loss(joint[:links], joint[links : 2 * links], 0.1, bidirectional=True)
    (loss + joint[2 * links :].square().sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def measure(
    model: LoginMEA, graph: AlignmentGraph, features: dict[str, Tensor], rows: Tensor, links: int, calls: int
) -> dict[str, float]:
    """Seconds of either, after one call of each, whose gradients are compared."""
    whole, some = (
        {name: g.clone() for name, g in gradients(model, features, given, links).items()}
        for given in (View(graph, rows), graph.view(rows))
    )
    worst = max(((some[n] - g).norm() / g.norm().clamp_min(1e-12)).item() for n, g in whole.items())
    if not worst <= BOUND:
        raise SystemExit(f"a gradient is off by {worst:.1e}")
    taken: dict[str, list[float]] = {"whole": [], "view": []}
    for _ in range(calls):
        rows = torch.cat([rows[:links].roll(1), rows[links : 2 * links].roll(1), rows[2 * links :]])
        for name in taken:
            started = time.perf_counter()
            gradients(model, features, View(graph, rows) if name == "whole" else graph.view(rows), links)
            taken[name].append(time.perf_counter() - started)
    found = {f"{name}_seconds": min(seconds) for name, seconds in taken.items()}
    ratio = statistics.median(a / b for a, b in zip(taken["whole"], taken["view"], strict=True))
    return {**found, "faster_typically": ratio, "gradient_error": worst}


def optimisers(model: LoginMEA, calls: int) -> dict[str, float]:
    """Rows of the table that have a gradient, and seconds of RMSprop on all of them and on these alone."""
    table = model.entity_embedding
    assert table is not None
    assert table.grad is not None
    parameter, moment = table.detach().clone(), torch.zeros_like(table)
    touched = table.grad.any(1).nonzero()[:, 0]
    behind = torch.zeros(len(table))  # updates that a row has not decayed by

    def dense() -> None:
        moment.mul_(0.9).addcmul_(table.grad, table.grad, value=0.1)
        parameter.addcdiv_(table.grad, moment.sqrt().add_(1e-7), value=-0.01)

    def by_rows() -> None:
        gradient = table.grad[touched]
        own = moment[touched].mul_((0.9 ** (behind[touched] + 1))[:, None])
        own.addcmul_(gradient, gradient, value=0.1)
        moment[touched] = own
        parameter.index_add_(0, touched, gradient.div_(own.sqrt_().add_(1e-7)), alpha=-0.01)
        behind.add_(1)
        behind[touched] = 0

    taken: dict[str, list[float]] = {"dense": [], "by_rows": []}
    for _ in range(calls):
        for name, update in (("dense", dense), ("by_rows", by_rows)):
            started = time.perf_counter()
            update()
            taken[name].append(time.perf_counter() - started)
    return {"touched": len(touched), **{f"{name}_seconds": min(seconds) for name, seconds in taken.items()}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("LOGINMEA_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("--dataset", type=Path, default=root / "dbp15k" / "zh_en")
    parser.add_argument("--calls", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    if not args.dataset.is_dir():
        raise SystemExit(f"no data at {args.dataset}; set LOGINMEA_DATA or --dataset")
    pair = data.load(args.dataset, modalities=["relation", "attribute"])
    features = {name: feature.values for name, feature in pair.features.items()}
    torch.manual_seed(0)
    graph, dims = pair.graph(), {name: feature.shape[1] for name, feature in features.items()}
    model = LoginMEA(graph.num_entities, graph.num_relations, dims, hidden_dim=WIDTH, aggregation="channels")
    order = torch.randperm(len(pair.links), generator=torch.Generator().manual_seed(0))
    cases = [(f"{share:.0%} of the links", int(share * len(order)), 0) for share in (0.01, 0.1, 0.3, 0.6)]
    cases.append((f"{BATCH:,} links and {2 * FURTHER:,} further entities", BATCH, FURTHER))
    rows, updates = [], []
    for case, links, further in cases:
        linked = pair.links[order[:links]].t().reshape(-1)
        others = [e[~torch.isin(e, linked)][:further] for e in (pair.left_entities, pair.right_entities)]
        wanted = torch.cat([linked, *others])
        view = View.of(graph, wanted, model.depth)
        size = {"rows": len(wanted), "entities": view.num_entities}
        edges = [block.dst_source.numel() for block in view.blocks]
        found = measure(model, graph, features, wanted, links, args.calls)
        step = found["view_seconds"]
        updated = {
            "case": case,
            "entities": len(model.entity_embedding),
            "step_seconds": step,
            **optimisers(model, args.calls),
        }
        updates.append(updated)
        rows.append({"case": case, **size, "edges": edges, **found})
        print(
            f"{case:42} {size['rows']:6,} rows, {size['entities']:6,} entities, edges {edges}: whole "
            f"{found['whole_seconds']:.3f} s, view {found['view_seconds']:.3f} s, typically "
            f"{found['faster_typically']:.2f}x; {updated['touched']:,} rows of the table have a gradient, optimiser "
            f"{updated['dense_seconds']:.3f} s, by rows {updated['by_rows_seconds']:.3f} s",
            flush=True,
        )
    if args.record:
        what = (
            f"forward and backward of the default model, {WIDTH} wide, {args.calls} calls in turn, the least"
        )
        record("views", rows, note=f"{args.dataset.name}; {what}")
        record("optimiser", updates, note=f"{args.dataset.name}; {what}")


if __name__ == "__main__":
    main()
