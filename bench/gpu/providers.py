"""Providers of each operator side by side: the authors' formulation, clean PyTorch, compiled, PyTorch Geometric, ours.

Right before fast: a result and its gradients are compared with the formula before they are timed, and a provider that
is off is not timed. All providers of an operator run in one process on the same tensors. Rows that say `alone` time the
operator without the small products around it: those are held to its floor.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench._authors import AuthorsAttention, AuthorsEdges, AuthorsFusion
from bench._graphs import generated
from bench.gpu import work
from bench.gpu.graphs import problem
from bench.gpu.kept_products import KeptProducts
from bench.gpu.run import Run
from bench.gpu.tasks import HOPPER, WAYS
from loginmea_fast import AlignmentGraph, ops
from loginmea_fast.ops.modality_scale import modality_scale
from loginmea_fast.reference import alignment_search as search_reference
from loginmea_fast.reference import contrastive_loss as loss_reference
from loginmea_fast.reference import low_rank_fusion as fusion_reference
from loginmea_fast.reference import relation_reflection_attention as attention_reference

__all__ = [
    "alignment_search",
    "choice",
    "contrastive_loss",
    "low_rank_fusion",
    "relation_reflection_attention",
]

OURS = ("triton", "cuda")
WIDTH, LAYERS, RANK, TEMPERATURE = 300, 2, 8, 0.1
JOINT = 2400  # columns of the joint embedding of three modalities
PRECISIONS = ((torch.float32, "tf32"), (torch.bfloat16, "bfloat16"))
# Relative L2 error of a result and of its gradients that a provider may have and still be timed.
BOUNDS = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}

Function = Callable[..., Tensor]


def relation_reflection_attention(run: Run) -> None:
    """Two layers with their reflectors: from features, relation table and layer vectors to the layers' buffer."""
    for name, graph in _graphs(run):
        for dtype in run.pick(*[(torch.float32, torch.bfloat16)] * 2, (torch.float32,)):
            _attention(run, name, graph.to(run.device), dtype)


def _graphs(run: Run) -> Iterable[tuple[str, AlignmentGraph]]:
    zh_en = problem("zh_en", run.pick(1, 1, 2000))
    yield zh_en.name, zh_en.graph
    if not run.rehearsal:
        entities, count = run.pick((300_000, 1_200_000), (200_000, 600_000), None)
        triples = torch.from_numpy(generated(entities, 500, count))
        graph = AlignmentGraph.from_triples(triples, entities, 500)
        yield f"power law, {entities:,} entities, larger than L2", graph
    if run.scale == "full":
        dense = problem("FB15K_DB15K")
        yield dense.name, dense.graph


def _attention(run: Run, name: str, graph: AlignmentGraph, dtype: torch.dtype) -> None:
    width = run.pick(WIDTH, WIDTH, 6)
    size = work.GraphSize(graph.num_entities, graph.num_edges, graph.num_relation_sets)
    counted = size, width, LAYERS, dtype.itemsize
    costs = [work.attention_forward(*counted), work.attention_backward(*counted)]
    x = torch.randn(graph.num_entities, width, device=run.device).tanh()
    table = torch.randn(2 * graph.num_relations, width, device=run.device)
    vectors = torch.randn(LAYERS, width, device=run.device) / width**0.5
    leaves = [t.to(dtype).requires_grad_() for t in (x, table, vectors)]
    op = "relation_reflection_attention"
    clean = functools.partial(_clean_attention, graph)
    providers: dict[str, Callable[[], Function]] = {"clean": lambda: clean}
    if dtype == torch.float32:
        providers["authors"] = lambda: _authors_attention(run, graph)
        # PyTorch Geometric comes with the benchmark extra only; the environment's record says whether it is there.
        if importlib.util.find_spec("torch_geometric") is not None:
            providers["PyG"] = lambda: _pyg_attention(graph)
    ours = _ours(run, op)
    providers |= {p: lambda b=b: functools.partial(_our_attention, graph, b) for p, b in ours.items()}
    if dtype == torch.float32 and name.startswith("zh_en"):
        providers["torch.compile"] = lambda: run.compiled(clean)
    # The formula needs a dozen tensors of edges x width.
    wide = torch.float64 if 12 * graph.num_edges * width * 8 < 30e9 else torch.float32
    what = {"op": op, "case": name, "dtype": _name(dtype), "truth": _name(wide)}
    _compare(run, what, providers, leaves, _truth(clean, leaves, wide), costs, _name(dtype))
    u = ops.relation_reflectors(leaves[1].detach(), graph).requires_grad_()
    for provider, backend in ours.items():
        alone = {**what, **_asked(op, provider), "alone": True}
        attend = functools.partial(_attend, graph, backend)
        _time(run, alone, attend, [leaves[0], u, leaves[2]], costs)


def _clean_attention(graph: AlignmentGraph, x: Tensor, table: Tensor, vectors: Tensor) -> Tensor:
    u = ops.relation_reflectors(table, graph)
    return attention_reference.relation_reflection_layers(x, u, vectors @ u.T, graph)


def _our_attention(graph: AlignmentGraph, backend: str, x: Tensor, table: Tensor, vectors: Tensor) -> Tensor:
    return _attend(graph, backend, x, ops.relation_reflectors(table, graph), vectors)


def _attend(graph: AlignmentGraph, backend: str, x: Tensor, u: Tensor, vectors: Tensor) -> Tensor:
    return ops.relation_reflection_layers(x, u, None, graph, backend=backend, relation_vectors=vectors)


def _authors_attention(run: Run, graph: AlignmentGraph) -> Function:
    with torch.device(run.device):
        ids = torch.arange(2 * graph.num_relations)
        edges = AuthorsEdges(graph, ids, len(ids), torch.float32)

    def forward(x: Tensor, table: Tensor, vectors: Tensor) -> Tensor:
        owner = SimpleNamespace(
            attn_kernels=[v[:, None] for v in vectors]
        )  # all that their layers read of it
        return torch.cat([x, *AuthorsAttention.layers(owner, x, table, edges)], 1)

    return forward


def _pyg_attention(graph: AlignmentGraph) -> Function:
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import softmax

    class Layer(MessagePassing):
        """Message passing as PyTorch Geometric's users write it."""

        def __init__(self) -> None:
            super().__init__(aggr="add")

        def forward(self, x: Tensor, edge_index: Tensor, u: Tensor, logits: Tensor) -> Tensor:
            weight = softmax(logits, edge_index[1], num_nodes=x.shape[0])
            return torch.tanh(
                self.propagate(edge_index, x=x, u=u, weight=weight, size=(x.shape[0], x.shape[0]))
            )

        def message(self, x_j: Tensor, u: Tensor, weight: Tensor) -> Tensor:
            return weight[:, None] * (x_j - 2 * (x_j * u).sum(1, keepdim=True) * u)

    layer, edge_index, sets = Layer(), graph.edge_index(), graph.dst_set.long()

    def forward(x: Tensor, table: Tensor, vectors: Tensor) -> Tensor:
        u = ops.relation_reflectors(table, graph)
        z = [x]
        for vector in vectors:
            z.append(layer(z[-1], edge_index, u[sets], (u @ vector)[sets]))
        return torch.cat(z, 1)

    return forward


def low_rank_fusion(run: Run) -> None:
    """Fusion with adaptive weights, from three modalities to one vector an entity; tf32 and bfloat16."""
    rows, width, rank = run.pick((38_960, WIDTH, RANK), (38_960, WIDTH, RANK), (9, 6, 2))
    x = [torch.randn(rows, width, device=run.device) for _ in range(3)]
    w = [torch.randn(rank, width + 1, width, device=run.device) / width**0.5 for _ in range(3)]
    small = [torch.randn(1, n, device=run.device) for n in (rank, width, width)]  # weights, bias, query
    op = "low_rank_fusion"
    ours, kept = _ours(run, op), KeptProducts(run)
    for dtype, precision in PRECISIONS[: run.pick(2, 2, 1)]:
        leaves = [t.to(dtype).requires_grad_() for t in (*x, *w, *small)]
        size = rows, [width] * 3, rank, width, dtype.itemsize
        costs = [work.fusion_forward(*size), work.fusion_backward(*size)]
        providers: dict[str, Callable[[], Function]] = {"clean": lambda: _clean_fusion}
        if dtype == torch.float32:
            providers["authors"] = lambda: _authors_fusion(run, width, rank)
        providers |= {p: lambda b=b: _our_fusion(b) for p, b in ours.items()}
        providers["products kept"] = lambda: functools.partial(_kept_products, kept)
        if dtype == torch.float32:
            providers["torch.compile"] = lambda: run.compiled(_clean_fusion)
        truth = _truth(_clean_fusion, leaves, torch.float64)
        case = f"{rows:,} rows, 3 x {width}, rank {rank}"
        what = {"op": op, "case": case, "dtype": precision}
        with _products_in(precision):
            _compare(run, what, providers, leaves, truth, costs, precision)
            scale = torch.rand(rows, 3, device=run.device, dtype=dtype).requires_grad_()
            for provider, backend in ours.items():
                alone = {**what, **_asked(op, provider), "alone": True}
                fuse = functools.partial(_fuse, backend)
                _time(run, alone, fuse, [*leaves[:8], scale], costs)
            alone = {**what, "provider": "products kept", "alone": True}
            _time(run, alone, kept, [*leaves[:8], scale], costs)
            costs = work.scale(rows, [width] * 3, dtype.itemsize)
            for provider, backend in (("clean", "reference"), ("triton", "triton")):
                alone = {**what, "op": "modality_scale", "provider": provider, "alone": True}
                _time(run, alone, functools.partial(_scale, backend), [*leaves[:3], leaves[8]], costs)


def _clean_fusion(*t: Tensor) -> Tensor:
    scale = fusion_reference.modality_scale(t[:3], t[8])
    return fusion_reference.low_rank_fusion(t[:3], t[3:6], t[6], t[7], scale)


def _our_fusion(backend: str) -> Function:
    return lambda *t: _fuse(backend, *t[:8], modality_scale(t[:3], t[8]))


def _kept_products(fuse: KeptProducts, *t: Tensor) -> Tensor:
    return fuse(*t[:8], fusion_reference.modality_scale(t[:3], t[8]))


def _scale(backend: str, *t: Tensor) -> Tensor:
    """Three inputs and the query."""
    return modality_scale(t[:3], t[3], backend)


def _fuse(backend: str, *t: Tensor) -> Tensor:
    """Three inputs, three factors, rank weights, bias, and row scales if there are any."""
    return ops.low_rank_fusion(t[:3], t[3:6], *t[6:], backend=backend)


def _authors_fusion(run: Run, width: int, rank: int) -> Function:
    fusion = AuthorsFusion(width, 3, rank)
    names = (
        "factor_list.0",
        "factor_list.1",
        "factor_list.2",
        "fusion_weights",
        "fusion_bias",
        "ent_attn.weight",
    )

    def forward(*t: Tensor) -> Tensor:
        with torch.device(run.device):
            return torch.func.functional_call(fusion, dict(zip(names, t[3:], strict=True)), (list(t[:3]),))

    return forward


def contrastive_loss(run: Run) -> None:
    """Loss and gradient of one batch of seed pairs; tf32 and bfloat16."""
    for batch in run.pick((3500, 10_500), (3500,), (12,)):
        width = run.pick(JOINT, JOINT, 10)
        left = torch.randn(batch, width, device=run.device)
        right = left + 2 * torch.randn_like(left)
        for dtype, precision in PRECISIONS[: run.pick(2, 2, 1)]:
            leaves = [t.to(dtype).requires_grad_() for t in (left, right)]
            costs = [work.loss(batch, 0, width, dtype.itemsize)]
            providers: dict[str, Callable[[], Function]] = {"clean": lambda: _plain_loss}
            providers["authors"] = lambda: _authors_loss
            providers["triton"] = lambda: functools.partial(_our_loss, "triton")
            if dtype == torch.float32:
                providers["torch.compile"] = lambda: run.compiled(_plain_loss)
            truth = _truth(_loss_formula, leaves, torch.float64)
            what = {"op": "contrastive_loss", "case": f"{batch:,} pairs, {width} wide", "dtype": precision}
            with _products_in(precision):
                _compare(run, what, providers, leaves, truth, costs, precision, together=True)
                tau = torch.full((), TEMPERATURE, device=run.device).requires_grad_()
                bias = torch.zeros(batch, device=run.device).requires_grad_()
                alone = {**what, "provider": "triton", "alone": True}
                _time(run, {**alone, "variant": "both ways"}, _loss_both_ways, [*leaves, tau], costs)
                _time(run, {**alone, "variant": "with a bias"}, _loss_with_bias, [*leaves, bias], costs)


def _loss_both_ways(left: Tensor, right: Tensor, temperature: Tensor) -> Tensor:
    return ops.contrastive_loss(left, right, temperature, True, "triton")


def _loss_with_bias(left: Tensor, right: Tensor, bias: Tensor) -> Tensor:
    places = torch.arange(len(left), device=left.device)
    return ops.contrastive_loss_to_keys(left, right, places, TEMPERATURE, "triton", key_bias=bias)


def _loss_formula(left: Tensor, right: Tensor) -> Tensor:
    return loss_reference.contrastive_loss(left, right, TEMPERATURE)


def _our_loss(backend: str, left: Tensor, right: Tensor) -> Tensor:
    return ops.contrastive_loss(left, right, TEMPERATURE, backend=backend)


def _plain_loss(left: Tensor, right: Tensor) -> Tensor:
    scores = F.normalize(left) @ F.normalize(right).T / TEMPERATURE
    return F.cross_entropy(scores.float(), torch.arange(len(left), device=left.device))


def _authors_loss(left: Tensor, right: Tensor) -> Tensor:
    """All rows of the embedding are normalised before those of the batch are picked."""
    embedding = F.normalize(torch.cat([left, right]))
    rows = torch.arange(len(embedding), device=left.device)
    left, right = embedding[rows[: len(left)]], embedding[rows[len(left) :]]
    return F.cross_entropy((left @ right.T / TEMPERATURE).float(), rows[: len(left)])


def alignment_search(run: Run) -> None:
    """Ranks both ways with CSLS; the answer is compared where the dense formula fits."""
    width = run.pick(JOINT, JOINT, 8)
    for pairs in run.pick((10_500, 70_000), (10_500,), (20,)):
        left = torch.randn(pairs, width, device=run.device)
        right = left + 3 * torch.randn_like(left)
        what = {"op": "alignment_search", "case": f"{pairs:,} pairs, {width} wide, CSLS 10"}
        fits = pairs <= 20_000
        truth = None
        if fits:
            in_place = torch.arange(pairs, device=run.device)[:, None].expand(-1, 2)
            truth = search_reference.dense_ranks(search_reference.dense_scores(left, right, 10), in_place)[:2]
        for dtype, screen in {"float32": None, "bfloat16 screen": "bfloat16"}.items():
            function = functools.partial(_ranks, left, right, "triton", screen)
            _search(run, {**what, "provider": "triton", "dtype": dtype}, function, truth, width)
        if fits:
            for provider, plain in (("clean", _dense_ranks), ("authors", _authors_ranks)):
                function = functools.partial(plain, left, right)
                _search(run, {**what, "provider": provider, "dtype": "float32"}, function, truth, width)


def _search(
    run: Run,
    what: dict[str, Any],
    function: Callable[[], Sequence[Tensor]],
    truth: Sequence[Tensor] | None,
    width: int,
) -> None:
    if not run.possible(**what):
        return
    with run.attempt(**what) as row:
        found = function()
        if truth is not None:
            wrong = sum((a.double() != t).sum().item() for a, t in zip(found, truth, strict=True))
            row["ranks_unlike_float64"] = wrong
            assert what["provider"] not in OURS or not wrong, f"{wrong} ranks are wrong"
        row |= run.measure(lambda _: function(), seconds=0.5)
        _add_work(row, [work.ranks(len(found[0]), len(found[1]), width, csls=True)])
        row["kernel_us"] = _kernel_times(run, function)


def _ranks(left: Tensor, right: Tensor, backend: str, screen: str | None = None) -> Sequence[Tensor]:
    return tuple(ops.alignment_ranks(left, right, csls_k=min(10, len(left)), screen=screen, backend=backend))


def _csls(left: Tensor, right: Tensor) -> Tensor:
    scores = F.normalize(left) @ F.normalize(right).T
    means = [scores.topk(10, dim=d).values.mean(d, keepdim=True) for d in (1, 0)]
    return 2 * scores - means[0] - means[1]


def _dense_ranks(left: Tensor, right: Tensor) -> Sequence[Tensor]:
    scores = _csls(left, right)
    own = scores.diagonal()
    return 1 + (scores > own[:, None]).sum(1), 1 + (scores > own[None, :]).sum(0)


def _authors_ranks(left: Tensor, right: Tensor) -> Sequence[Tensor]:
    """A dense matrix of distances, sorted row by row and column by column in a Python loop."""
    distance = 1 - _csls(left, right)
    ranks = []
    for rows in (distance, distance.T):
        found = [(torch.sort(row)[1] == i).nonzero().squeeze().item() + 1 for i, row in enumerate(rows)]
        ranks.append(torch.tensor(found, device=left.device))
    return ranks


def choice(run: Run) -> None:
    """Ours in Triton and in CUDA, by width and dtype: what the choice between them is made from."""
    graph = problem("zh_en", run.pick(1, 1, 2000)).graph.to(run.device)
    for dtype in run.pick(*[(torch.float32, torch.bfloat16)] * 2, (torch.float32,)):
        for width in run.pick((64, 128, 300, 512), (128, 300), (5,)):
            with _products_in("tf32"):
                _choices(run, graph, width, dtype)


def _choices(run: Run, graph: AlignmentGraph, width: int, dtype: torch.dtype) -> None:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=run.device).to(dtype).requires_grad_()

    u = F.normalize(normal(graph.num_relation_sets, width), dim=1).detach().requires_grad_()
    attention = [normal(graph.num_entities, width), u, normal(LAYERS, width)]
    factors = [normal(RANK, width + 1, width) for _ in range(3)]
    fusion = (
        [normal(graph.num_entities, width) for _ in range(3)] + factors + [normal(1, RANK), normal(1, width)]
    )
    for backend in OURS:
        for op, wide, function, leaves in (
            ("relation_reflection_attention", width, functools.partial(_attend, graph, backend), attention),
            ("low_rank_fusion", width, functools.partial(_fuse, backend), fusion),
        ):
            what = {"op": op, "provider": backend, "dtype": _name(dtype), "width": wide}
            _time(run, what, function, leaves)


def _compare(
    run: Run,
    what: dict[str, Any],
    providers: dict[str, Callable[[], Function]],
    leaves: list[Tensor],
    truth: tuple[Tensor, list[Tensor]],
    costs: list[work.Work],
    precision: str,
    together: bool = False,
) -> None:
    """Check every provider against the truth and time it; `together` times forward and backward as one."""
    for provider, make in providers.items():
        if run.possible(**what, provider=provider):
            with run.attempt(**what, **_asked(what["op"], provider)) as row:
                function = make()
                out, gradients = _run(function, leaves)
                errors = [_error(a, t) for a, t in zip([out, *gradients], [truth[0], *truth[1]], strict=True)]
                row["errors"] = [float(f"{e:.2e}") for e in errors]
                assert max(errors) <= BOUNDS[precision], f"relative error {max(errors):.1e}: not timed"
                del out, gradients
                row |= run.measure(*_parts(function, leaves, together))
                _add_work(row, costs)


def _ours(run: Run, op: str) -> dict[str, str]:
    """Providers of ours that this card has, and their backends."""
    ways = {
        provider: backend
        for provider, (backend, variables) in WAYS[op].items()
        if run.hopper or not HOPPER.keys() & variables.keys()
    }
    return {backend: backend for backend in OURS} | ways


def _asked(op: str, provider: str) -> dict[str, Any]:
    """What `Run.attempt` is told of a provider."""
    _, variables = WAYS.get(op, {}).get(provider, ("", {}))
    return {"provider": provider} | ({"variables": variables} if variables else {})


def _time(
    run: Run,
    what: dict[str, Any],
    function: Function,
    leaves: list[Tensor],
    costs: list[work.Work] | None = None,
) -> None:
    """Time without a comparison, which other rows have made."""
    if run.possible(**what):
        with run.attempt(**what) as row:
            row |= run.measure(*_parts(function, leaves, what["op"] == "contrastive_loss"), seconds=0.5)
            _add_work(row, costs or [])
            row["kernel_us"] = _kernel_times(run, lambda: _run(function, leaves))


def _kernel_times(run: Run, call: Callable[[], Any]) -> dict[str, float | None]:
    """Microseconds of each kernel in one call, gradients included, longest first: what docs/gpu.md predicts of each.

    Empty where the driver allows no profiling. A rehearsal has the CPU's operators in their place, and no times.
    """
    calls = 3
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU if run.rehearsal else activity.CUDA]) as seen:
        for _ in range(calls):
            call()
        if run.device.type == "cuda":
            torch.cuda.synchronize()
    if run.rehearsal:
        return {event.key: None for event in seen.key_averages()}
    events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    return {e.key: round(e.self_device_time_total / calls, 1) for e in events if e.self_device_time_total}


def _parts(function: Function, leaves: list[Tensor], together: bool) -> list[Callable[[Any], Any]]:
    upstream: list[Tensor] = []

    def forward(_: Any) -> Tensor:
        return function(*leaves)

    def backward(out: Tensor) -> Sequence[Tensor]:
        if not upstream:
            upstream.append(torch.randn_like(out))
        return torch.autograd.grad(out, leaves, upstream[0])

    return [lambda _: backward(forward(None))] if together else [forward, backward]


def _run(function: Function, leaves: list[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    out = function(*leaves)
    return out.detach(), torch.autograd.grad(out, leaves, _seed(out))


def _seed(out: Tensor) -> Tensor:
    """The same upstream gradient for everyone."""
    generator = torch.Generator(out.device).manual_seed(0)
    return torch.randn(out.shape, generator=generator, device=out.device, dtype=torch.float32).to(out.dtype)


def _truth(function: Function, leaves: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    wide = [t.detach().to(dtype).requires_grad_() for t in leaves]
    out = function(*wide)
    upstream = _seed(out.to(leaves[0].dtype) if out.dim() else out.float()).to(dtype)
    return out.detach().float(), [g.float() for g in torch.autograd.grad(out, wide, upstream)]


def _error(actual: Tensor, expected: Tensor) -> float:
    error = ((actual.float() - expected).norm() / expected.norm()).item()
    assert error == error, "NaN"
    return error


def _add_work(row: dict[str, Any], costs: list[work.Work]) -> None:
    if row.get("ms") and costs:
        row["flop"], row["bytes"], row["gathered"] = (
            [getattr(c, f) for c in costs] for f in work.Work._fields
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _products_in:
    """PyTorch's float32 products in tf32 meanwhile, for every provider."""

    def __init__(self, precision: str) -> None:
        self.wanted = "high" if precision == "tf32" else "highest"

    def __enter__(self) -> None:
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.wanted)

    def __exit__(self, *_: object) -> None:
        torch.set_float32_matmul_precision(self.before)
