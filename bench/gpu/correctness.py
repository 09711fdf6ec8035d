"""Is it right: every operator and backend against the float64 formula, on the card itself.

Outputs and all gradients, from inputs that the formula gets as they were rounded; memory that was never written is NaN;
two more runs must agree bit for bit. A row is one case: the relative L2 error of each tensor, and a verdict by the
tolerances that the tests hold.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench._graphs import generated
from bench.gpu.graphs import problem
from bench.gpu.run import Run
from bench.gpu.tasks import HOPPER
from loginmea_fast import AlignmentGraph, ops
from loginmea_fast.ops.modality_scale import modality_scale as scale_operator
from loginmea_fast.reference import contrastive_loss as loss_reference
from loginmea_fast.reference import low_rank_fusion as fusion_reference
from loginmea_fast.reference import relation_reflection_attention as attention_reference
from tests.helpers.compare import TOLERANCE, assert_close
from tests.helpers.graphs import ALWAYS_THERE, triples_of

__all__ = [
    "alignment_search",
    "contrastive_loss",
    "low_rank_fusion",
    "modality_scale",
    "relation_reflection_attention",
]

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
# Elementwise and relative L2. Two layers: each rounds what the other made of its roundings.
TWO_LAYERS = {torch.float32: (1e-4, 2e-5), torch.float64: (1e-10, 1e-11), torch.bfloat16: (6e-2, 1.6e-2)}
# In bfloat16 the scaled inputs and the weighted factors are rounded once more before they are multiplied.
FUSION = TOLERANCE | {torch.bfloat16: (8e-2, 1.6e-2)}
# Products of float32 tensors that were asked to round their operands: to 11 bits and to 8.
ROUNDED_PRODUCTS = {"tf32": (8e-3, 2e-3), "bfloat16": (6e-2, 1.2e-2)}

Tensors = dict[str, Tensor]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def _poisoned() -> Iterator[None]:
    """`torch.empty` gives NaN, so that a gap in an output shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch operators that have no deterministic form
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def _judge(
    row: dict[str, Any],
    compute: Callable[[], Tensors],
    expected: Callable[[Tensors], Tensors],
    bounds: tuple[float, float],
    terms: dict[str, float] | None = None,
) -> None:
    """Compute, compare, compute twice more; a tensor in `terms` is a difference, judged by the size of its terms."""
    with _poisoned():
        actual = compute()
    truth = expected(actual)
    pairs = {}
    for name, value in truth.items():
        offset = (terms or {}).get(name, 0.0)
        pairs[name] = actual[name].double() + offset, value.double() + offset
    row["errors"] = {name: _error(*pair) for name, pair in pairs.items()}
    for name, pair in pairs.items():
        assert_close(*pair, name, bounds=bounds)
    first, second = compute(), compute()
    row["repeats"] = all(torch.equal(first[name], second[name]) for name in first)
    assert row["repeats"], "two runs differ"


def _error(actual: Tensor, expected: Tensor) -> float | None:
    """Relative L2 error; None where there is nothing to compare or it is no number."""
    length = expected.norm().item() if expected.numel() else 0.0
    error = (actual - expected).norm().item() / length if length else math.nan
    return float(f"{error:.2e}") if math.isfinite(error) else None


def _with_gradients(
    function: Callable[..., Tensor], leaves: Tensors, upstream: Tensor | None = None
) -> Tensors:
    leaves = {name: t.detach().requires_grad_() for name, t in leaves.items()}
    out = function(**leaves)
    seed = torch.ones_like(out) if upstream is None else upstream.to(out)
    gradients = torch.autograd.grad(out, list(leaves.values()), seed)
    return {"out": out.detach(), **{f"d {name}": g for name, g in zip(leaves, gradients, strict=True)}}


def relation_reflection_attention(run: Run, backend: str) -> None:
    """Two layers on every always-there graph, a graph with a hub, and zh_en."""
    graphs: dict[str, AlignmentGraph] = {}
    for case in run.pick(ALWAYS_THERE, ALWAYS_THERE, ("no edges", "self loops")):
        triples, entities, relations = triples_of(case)
        if len(triples):
            graphs[case] = AlignmentGraph.from_triples(triples, entities, relations)
        else:
            none = torch.zeros(2, 0, dtype=torch.int64)
            graphs[case] = AlignmentGraph.from_edges(none, none[0], entities, 2 * relations)
    large: dict[str, AlignmentGraph] = {}
    if not run.rehearsal:
        triples = generated(20_000, 40, 90_000, hub=1 / 3)
        large["a hub of 30,000 triples"] = AlignmentGraph.from_triples(triples, 20_000, 40)
        zh_en = problem("zh_en")
        large[zh_en.name] = zh_en.graph
    for dtype in run.pick(DTYPES, DTYPES, DTYPES[:1]):
        widths = run.pick((1, 63, 300, 301) if dtype == torch.float32 else (63, 300), (63, 300), (5,))
        further = run.pick((64,) if dtype == torch.float64 else (64, 330, 600, 1024), (), ())
        checks = [
            (name, g, w, mode)
            for name, g in graphs.items()
            for w in widths
            for mode in ("relation", "triple")
        ]
        # With the widths above every layout of CUDA C++, on a graph whose rows are cut and joined.
        checks += [("hub", graphs["hub"], w, mode) for w in further for mode in ("relation", "triple")]
        checks += [(name, g, 300, "relation") for name, g in large.items()]
        ways = ({}, {"variables": HOPPER}) if backend == "cuda" and run.hopper else ({},)
        for (name, graph, width, mode), way in itertools.product(checks, ways):
            what = {"dtype": _name(dtype), "case": f"{name}, width {width}, {mode} mode", **way}
            with run.attempt(op="relation_reflection_attention", backend=backend, **what) as row:
                _attention(run, row, graph.to(run.device), width, mode, dtype, backend)


def _attention(
    run: Run, row: dict, graph: AlignmentGraph, width: int, mode: str, dtype: torch.dtype, backend: str
) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    sets = graph.num_relation_sets
    x = torch.randn(graph.num_entities, width, device=run.device).tanh().to(dtype)
    u = F.normalize(torch.randn(sets, width, device=run.device), dim=1).to(dtype)
    logits = torch.randn(2, sets, device=run.device, dtype=wide)
    leaves = {"x": x, "reflectors": u, "set_logits": logits}
    if mode == "triple":
        leaves["neighbor_vectors"] = torch.randn(2, width, device=run.device, dtype=wide) / width**0.5
    upstream = torch.randn(graph.num_entities, 3 * width, device=run.device).to(dtype)

    def layers(**leaves: Tensor) -> Tensor:
        return ops.relation_reflection_layers(graph=graph, backend=backend, **leaves)

    def expected(actual: Tensors) -> Tensors:
        """Each layer from what the layer below stored, so that roundings do not pile up in the comparison."""
        edges = attention_reference.Edges.of(graph)
        stored = list(actual["out"].double().split(width, dim=1))
        z, lse = [x.double()], []
        vectors = leaves.get("neighbor_vectors")
        vectors = None if vectors is None else vectors.double()
        for layer in range(2):
            w = None if vectors is None else vectors[layer]
            output, denominator = attention_reference.relation_reflection_forward(
                stored[layer], u.double(), logits[layer].double(), edges, w, "tanh"
            )
            z.append(output)
            lse.append(denominator)
        gradients = attention_reference.relation_reflection_layers_backward(
            list(upstream.double().split(width, dim=1)), stored, torch.stack(lse), u.double(), logits.double(),
            [edges] * 2, vectors, "tanh",
        )  # fmt: skip
        named = {f"d {name}": g for name, g in zip(leaves, gradients, strict=False)}
        return {"out": torch.cat(z, 1), **named}

    # dc and dw are sums of a (h . m - D), whose terms cancel: they are held to the size of the terms.
    term = upstream.double().norm(dim=1).max().item()
    terms = {"d set_logits": term, "d neighbor_vectors": term}
    _judge(row, lambda: _with_gradients(layers, leaves, upstream), expected, TWO_LAYERS[dtype], terms)


def low_rank_fusion(run: Run, backend: str) -> None:
    """No row, one row, narrow, odd and usual widths; with and without row scales; every precision of products."""
    shapes = (
        (0, (3, 4), 2, 5),
        (1, (1,), 1, 1),
        (33, (63, 64), 4, 63),
        (200, (300, 300, 300), 8, 300),
        (70, (301, 7, 33, 300), 3, 301),
        (50, (5, 1, 3, 2, 4, 6), 2, 40),
    )
    if not run.rehearsal:
        shapes += ((5000, (300, 300, 300), 8, 300),)
    cases = [
        (
            "rows {}, widths {}, rank {}, out {}, ".format(*shape) + ("scaled" if scaled else "unscaled"),
            shape,
            scaled,
        )
        for shape in run.pick(shapes, shapes, ((3, (5, 4), 2, 6),))
        for scaled in (False, True)
    ]
    largest = (5000, (300, 300, 300), 8, 300), True
    _every_precision(run, "low_rank_fusion", backend, _fusion, cases, largest)
    if backend == "cuda" and run.hopper:
        for name in ROUNDED_PRODUCTS:
            for case, *what in [*cases, ("largest", *largest)]:
                named = {"dtype": "float32", "case": f"{case}, products in {name}", "variables": HOPPER}
                with run.attempt(op="low_rank_fusion", backend=backend, **named) as row:
                    _fusion(run, row, *what, torch.float32, backend, name)


def _every_precision(
    run: Run,
    op: str,
    backend: str,
    check: Callable[..., None],
    cases: Sequence[tuple[str, tuple, bool]],
    rounded: tuple[tuple, bool],
) -> None:
    """A row for each dtype and case, and one for each precision of products at the shape and switch of `rounded`."""
    attempts = [
        (dtype, case, shape, switch, None)
        for dtype in run.pick(DTYPES, DTYPES, DTYPES[:1])
        for case, shape, switch in cases
    ]
    if not run.rehearsal:
        attempts += [(torch.float32, f"products in {name}", *rounded, name) for name in ROUNDED_PRODUCTS]
    for dtype, case, shape, switch, precision in attempts:
        with run.attempt(op=op, backend=backend, dtype=_name(dtype), case=case) as row:
            check(run, row, shape, switch, dtype, backend, precision)


def _fusion(
    run: Run, row: dict, shape: tuple, scaled: bool, dtype: torch.dtype, backend: str, precision: str | None
) -> None:
    rows, widths, rank, out = shape
    leaves: Tensors = {}
    for m, width in enumerate(widths):
        leaves[f"x{m}"] = torch.randn(rows, width, device=run.device).to(dtype)
        leaves[f"w{m}"] = (torch.randn(rank, width + 1, out, device=run.device) / width**0.5).to(dtype)
    leaves["rank_weights"] = torch.randn(1, rank, device=run.device).to(dtype)
    leaves["bias"] = torch.zeros(1, out, device=run.device, dtype=dtype)  # any other would hide small errors
    if scaled:
        leaves["row_scale"] = torch.rand(rows, len(widths), device=run.device).to(dtype)
    upstream = torch.randn(rows, out, device=run.device)

    def parts(t: Tensors) -> tuple:
        inputs, factors = ([t[f"{letter}{m}"] for m in range(len(widths))] for letter in "xw")
        return inputs, factors, t["rank_weights"], t["bias"], t.get("row_scale")

    def fused(**leaves: Tensor) -> Tensor:
        return ops.low_rank_fusion(*parts(leaves), backend=backend, precision=precision or "ieee")

    def formula(**leaves: Tensor) -> Tensor:
        return fusion_reference.low_rank_fusion(*parts(leaves))

    bounds = ROUNDED_PRODUCTS[precision] if precision else FUSION[dtype]
    double = {name: t.double() for name, t in leaves.items()}
    _judge(
        row,
        lambda: _with_gradients(fused, leaves, upstream),
        lambda _: _with_gradients(formula, double, upstream.to(dtype)),
        bounds,
    )


def modality_scale(run: Run, backend: str) -> None:
    """One row, odd and usual widths; with a query and without, of all modalities and of some."""
    shapes = ((1, (1,)), (7, (63, 63)), (300, (301, 301, 301)))
    if not run.rehearsal:
        shapes += ((38_960, (300, 300, 300)),)
    for dtype in run.pick(DTYPES[:2], DTYPES[:2], DTYPES[:1]):
        for rows, widths in shapes:
            for query in (True, False):
                for some in (True, False):
                    case = f"{rows} rows, {widths}, {'query' if query else 'lengths'}, {'some' if some else 'all'}"
                    what = {"op": "modality_scale", "backend": backend, "dtype": _name(dtype), "case": case}
                    with run.attempt(**what) as row:
                        _scale(run, row, rows, widths, query, some, dtype, backend)


def _scale(
    run: Run,
    row: dict,
    rows: int,
    widths: tuple[int, ...],
    query: bool,
    some: bool,
    dtype: torch.dtype,
    backend: str,
) -> None:
    leaves = {
        f"x{m}": torch.randn(rows, width, device=run.device).to(dtype) for m, width in enumerate(widths)
    }
    if query:
        leaves["query"] = torch.randn(1, widths[0], device=run.device)
    present = torch.rand(rows, len(widths), device=run.device) > 0.3 if some else None
    upstream = torch.randn(rows, len(widths), device=run.device)

    def scaled(**leaves: Tensor) -> Tensor:
        inputs = [leaves[f"x{m}"] for m in range(len(widths))]
        return scale_operator(inputs, leaves.get("query"), backend, present=present)

    def formula(**leaves: Tensor) -> Tensor:
        inputs = [leaves[f"x{m}"] for m in range(len(widths))]
        return fusion_reference.modality_scale(inputs, leaves.get("query"), present)

    double = {name: t.double() for name, t in leaves.items()}
    _judge(
        row,
        lambda: _with_gradients(scaled, leaves, upstream),
        lambda _: _with_gradients(formula, double, upstream),
        TOLERANCE[dtype],
    )


def contrastive_loss(run: Run, backend: str) -> None:
    """One row, narrow, odd and usual widths, further keys, one way and both; every precision of products."""
    shapes = ((1, 7, 0), (5, 63, 0), (33, 301, 17), (70, 300, 1), (1100, 24, 130))
    if not run.rehearsal:
        shapes += ((3500, 2100, 0),)
    cases = [
        (
            "{} rows, width {}, {} further keys, ".format(*shape) + ("both ways" if both else "one way"),
            shape,
            both,
        )
        for shape in run.pick(shapes, shapes, ((5, 7, 3),))
        for both in (False, True)
    ]
    _every_precision(run, "contrastive_loss", backend, _loss, cases, ((1100, 300, 130), True))


def _loss(
    run: Run, row: dict, shape: tuple, both: bool, dtype: torch.dtype, backend: str, precision: str | None
) -> None:
    batch, width, extra = shape
    left = torch.randn(batch, width, device=run.device)
    leaves = {"left": left, "right": left + 2 * torch.randn_like(left)}
    if extra:
        leaves["right_keys"] = torch.randn(extra, width, device=run.device)
    leaves = {name: F.normalize(t).to(dtype) for name, t in leaves.items()}

    def fused(**leaves: Tensor) -> Tensor:
        return ops.contrastive_loss(
            temperature=0.1, bidirectional=both, backend=backend, precision=precision or "ieee", **leaves
        )

    def formula(**leaves: Tensor) -> Tensor:
        return loss_reference.contrastive_loss(temperature=0.1, bidirectional=both, **leaves)

    double = {name: t.double() for name, t in leaves.items()}
    # The loss is a difference of logits, up to 10. Of a single pair nothing is left but their rounding.
    terms = {"out": 10.0} | ({f"d {name}": 10.0 for name in leaves} if batch == 1 else {})
    bounds = ROUNDED_PRODUCTS[precision] if precision else TOLERANCE[dtype]
    _judge(
        row,
        lambda: _with_gradients(fused, leaves),
        lambda _: _with_gradients(formula, double),
        bounds,
        terms,
    )


def alignment_search(run: Run, backend: str) -> None:
    """Ranks, best k and mutual neighbours: equal to the float64 answer, ties included, screened or not."""
    shapes = run.pick(((60, 33), (900, 300), (3000, 2100)), ((60, 33), (900, 300)), ((12, 7),))
    for pairs, width in shapes:
        for kind in run.pick(*[("random", "ties", "clustered")] * 2, ("random",)):
            left, right = _sides(run, kind, pairs, width)
            for csls_k in (0, min(10, pairs)):
                what = {"csls_k": csls_k, "k": min(10, pairs)}
                truth = _search(left.cpu(), right.cpu(), **what, screen=None, backend="reference")
                for screen in (None, "bfloat16"):
                    case = f"{pairs} pairs, width {width}, {kind}, CSLS {csls_k}, screened: {screen or 'no'}"
                    with run.attempt(op="alignment_search", backend=backend, dtype="float32", case=case):
                        found = _search(left, right, **what, screen=screen, backend=backend)
                        unequal = [name for name in truth if not torch.equal(found[name].cpu(), truth[name])]
                        assert not unequal, f"{', '.join(unequal)} differ from the float64 answer"


def _sides(run: Run, kind: str, pairs: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows that resemble each other, or have few distinct cosines, or cosines that differ in the seventh digit."""
    left = torch.randn(pairs, width, device=run.device)
    right = left + 0.7 * torch.randn_like(left)
    if kind == "ties":
        left, right = left.sign() * (left.abs() > 0.7), right.sign() * (right.abs() > 0.7)
        right[: pairs // 2] = right[torch.randint(0, 1 + pairs // 10, (pairs // 2,), device=run.device)]
    elif kind == "clustered":
        left, right = 1 + 3e-4 * left, 1 + 3e-4 * right
    return left, right


def _search(left: Tensor, right: Tensor, csls_k: int, k: int, screen: str | None, backend: str) -> Tensors:
    options: dict[str, Any] = {"csls_k": csls_k, "screen": screen, "backend": backend}
    ranks = ops.alignment_ranks(left, right, **options)
    _, index = ops.alignment_topk(left, right, k, **options)
    pairs = ops.mutual_nearest(left, right, **options)
    return {
        "ranks left to right": ranks[0],
        "ranks right to left": ranks[1],
        "ties": torch.cat(ranks.ties),
        "best k": index,
        "mutual": pairs,
    }
