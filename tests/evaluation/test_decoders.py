from __future__ import annotations

import importlib
import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.evaluation import decoders
from loginmea_fast.evaluation.decoders import Candidates, TopK, find_candidates, one_to_one, sinkhorn
from loginmea_fast.evaluation.plans import chosen_decoders, decoder_metrics, matching_metrics, plan_ranks
from loginmea_fast.ops import alignment_ranks, mutual_nearest


def sides(n=40, m=33, noise=0.7, seed=0):
    """Embeddings in float64; row b of one side is row b of the other with noise."""
    g = torch.Generator().manual_seed(seed)
    both = torch.randn(max(n, m), 12, generator=g, dtype=torch.float64)
    return both[:n], both[:m] + noise * torch.randn(m, 12, generator=g, dtype=torch.float64)


def complete(scores):
    """Every pair a candidate."""
    n, m = scores.shape
    left, right = np.divmod(np.arange(n * m), m)
    return Candidates(left, right, scores.reshape(-1), n, m)


def dense_sinkhorn(scores, temperature, iterations):
    """The textbook: rows, then columns, of the whole matrix; the larger side is scaled down alone."""
    n, m = scores.shape
    kernel, u, v = np.exp(scores / temperature), np.ones(n), np.ones(m)
    for _ in range(iterations):
        u = np.minimum(1 / (kernel @ v), 1 if n > m else np.inf)
        v = np.minimum(1 / (kernel.T @ u), 1 if m > n else np.inf)
    return u[:, None] * kernel * v


@pytest.mark.parametrize("shape", [(40, 40), (40, 33), (21, 50)])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_sinkhorn_is_the_dense_one_where_every_pair_is_a_candidate(shape, temperature):
    left, right = sides(*shape)
    candidates = find_candidates(left, right, k=max(shape))
    assert len(candidates.scores) == shape[0] * shape[1]
    found = sinkhorn(candidates, temperature, iterations=60, tolerance=1e-300)
    assert found.iterations == 60 or found.converged, "nothing moves any more"
    expected = dense_sinkhorn(candidates.scores.reshape(shape), temperature, 60)
    np.testing.assert_allclose(found.plan.scores.reshape(shape), expected, rtol=1e-9, atol=1e-300)


def test_a_plan_that_converged_has_the_sums_it_should():
    left, right = sides(60, 45)
    found = sinkhorn(find_candidates(left, right, k=20), 0.1, iterations=2000, tolerance=1e-6)
    assert found.converged
    rows = np.bincount(found.plan.left, found.plan.scores)
    columns = np.bincount(found.plan.right, found.plan.scores)
    assert rows.max() <= 1 + 1e-6
    assert rows.max() > 0.9 > rows.min(), "who is left over claims nobody"
    np.testing.assert_allclose(columns, 1, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(90, 30), (30, 90)])
def test_a_side_that_is_larger_leaves_sure_pairs_sure(sizes):
    """Two thirds of the larger side have no partner, and take nothing from the pairs of the others."""
    left, right = (
        torch.nn.functional.normalize(torch.randn(90, 40, generator=torch.Generator().manual_seed(0)), dim=1)[
            :n
        ]
        for n in sizes
    )
    plan = sinkhorn(find_candidates(left, right, k=30)).plan
    proposed = plan.mutual(0.9)
    assert proposed.pairs.tolist() == [[i, i] for i in range(30)]


@pytest.mark.parametrize("temperature", [1e-4, 1e-3])
def test_low_temperatures_do_not_overflow(temperature):
    left, right = sides(50, 50, noise=0.3)
    found = sinkhorn(find_candidates(left, right, k=50), temperature, iterations=500)
    assert np.isfinite(found.plan.scores).all()
    assert (found.pairs[:, 0] == found.pairs[:, 1]).mean() > 0.9
    columns = np.bincount(found.plan.right, found.plan.scores)
    np.testing.assert_allclose(columns, 1, rtol=1e-9)


def test_what_cannot_converge_is_marked(caplog):
    """Two left rows that list the same right one only, and a right row that both are far from."""
    lists = TopK(torch.ones(3, 1), torch.tensor([[0], [0], [1]]))
    back = TopK(torch.ones(3, 1), torch.tensor([[0], [2], [2]]))
    candidates = Candidates.from_topk(lists, back)
    found = sinkhorn(candidates, iterations=30)
    assert (found.converged, found.iterations) == (False, 30)
    assert np.isfinite(found.plan.scores).all()
    assert matching_metrics(found, np.array([[0, 0]]))["converged"] is False
    left, right = sides(30, 30)
    with caplog.at_level(logging.WARNING):
        decoder_metrics(["sinkhorn"], left, right[[0] * 30] + 1e-3 * right, torch.tensor([[0, 0]]), 2, 0)
    assert "sinkhorn did not converge in 500 iterations" in caplog.text


def test_hubs_share_themselves_out():
    """A right row near everybody takes all by cosine, and gives them back under transport."""
    scores = np.array([[0.90, 0.85, 0.1], [0.92, 0.1, 0.87], [0.95, 0.2, 0.2]])
    nearest = decoders.nearest(complete(scores)).pairs.tolist()
    assert nearest == [[0, 0], [1, 0], [2, 0]]
    assert sinkhorn(complete(scores)).pairs.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert one_to_one(complete(scores)).pairs.tolist() == [[0, 1], [1, 2], [2, 0]]


def test_proposals_for_bootstrapping_are_mutual_and_sure():
    left, right = sides(200, 200, noise=0.5)
    proposed = sinkhorn(find_candidates(left, right, k=20)).plan.mutual(0.9)
    assert len(proposed.pairs) > 50
    assert (proposed.scores >= 0.9).all()
    assert len(set(proposed.pairs[:, 1].tolist())) == len(proposed.pairs)
    assert (proposed.pairs[:, 0] == proposed.pairs[:, 1]).mean() > 0.95


@pytest.mark.parametrize("csls_k", [0, 5])
def test_mutual_pairs_are_those_of_the_search(csls_k):
    left, right = sides()
    found = find_candidates(left, right, k=3, csls_k=csls_k).mutual()
    assert found.pairs.tolist() == mutual_nearest(left, right, csls_k).tolist()


def brute_force_assignment(candidates):
    """Most pairs first, then the largest sum, over all assignments."""
    scores = np.full((candidates.num_left, candidates.num_right), -np.inf)
    scores[candidates.left, candidates.right] = candidates.scores
    best = (-1, -np.inf)
    alone = [None] * candidates.num_left
    for columns in set(itertools.permutations([*range(candidates.num_right), *alone], candidates.num_left)):
        chosen = [scores[i, j] for i, j in enumerate(columns) if j is not None]
        if all(np.isfinite(chosen)):
            best = max(best, (len(chosen), sum(chosen)))
    return best


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_one_to_one_is_the_best_assignment(n, m, k, seed):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(n, m)).round(3))
    k = min(k, n, m)
    candidates = Candidates.from_topk(TopK(*scores.topk(k, 1)), TopK(*scores.T.contiguous().topk(k, 1)))
    found = one_to_one(candidates)
    for column in found.pairs.T:
        assert len(set(column.tolist())) == len(column)
    count, total = brute_force_assignment(candidates)
    assert len(found.pairs) == count
    assert found.scores.sum() == pytest.approx(total)


def greedy_walk(candidates):
    taken, left, right = [], set(), set()
    for place in np.lexsort((candidates.right, candidates.left, -candidates.scores)).tolist():
        i, j = int(candidates.left[place]), int(candidates.right[place])
        if i not in left and j not in right:
            taken.append([i, j])
            left.add(i), right.add(j)
    return sorted(taken)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6), st.booleans())
def test_greedy_rounds_take_what_the_walk_takes(n, m, seed, ties):
    scores = np.random.default_rng(seed).normal(size=(n, m))
    candidates = complete(scores.round(0 if ties else 9))
    assert decoders.greedy(candidates).pairs.tolist() == greedy_walk(candidates)


def test_greedy_beyond_a_size(monkeypatch):
    module = importlib.import_module("loginmea_fast.evaluation.decoders.one_to_one")
    scores = np.array([[1.0, 0.9], [0.95, 0.0]])
    assert one_to_one(complete(scores)).pairs.tolist() == [[0, 1], [1, 0]]
    monkeypatch.setattr(module, "EXACT_PAIRS", 3)
    assert one_to_one(complete(scores)).pairs.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("several", [False, True])
def test_ranks_of_a_plan_with_every_pair_are_the_exact_ones(several):
    left, right = sides(30, 40)
    pairs = torch.arange(30)[:, None].expand(-1, 2)
    if several:
        pairs = torch.cat([pairs, torch.tensor([[3, 35], [3, 36], [7, 3]])])
    there, back = plan_ranks(find_candidates(left, right, k=40), pairs.numpy())
    exact = alignment_ranks(left, right, pairs=pairs)
    assert there.tolist() == exact.left_to_right.tolist()
    assert back.tolist() == exact.right_to_left.tolist()


def test_what_is_outside_the_lists_ranks_after_them():
    lists = TopK(torch.tensor([[0.9, 0.8], [0.7, 0.7], [0.5, 0.4]]), torch.tensor([[0, 1], [1, 2], [0, 1]]))
    back = TopK(torch.tensor([[0.9], [0.8], [0.7], [0.1]]), torch.tensor([[0], [0], [1], [1]]))
    candidates = Candidates.from_topk(lists, back)
    there, back = plan_ranks(candidates, np.array([[0, 1], [1, 2], [2, 3]]))
    assert there.tolist() == [2, 1.5, 3.5], "second; tied first; third or fourth of four"
    assert back.tolist() == [1, 1, 2.5], "first; the only one; second or third of three"


def test_metrics_of_a_matching():
    candidates = complete(np.eye(4) + 0.1 * np.eye(4, k=1))
    truth = np.array([[0, 0], [1, 1], [2, 3]])
    found = matching_metrics(candidates.mutual(), truth)
    assert (found["matched"], found["precision"], found["recall"]) == (4, 2 / 4, 2 / 3)
    assert found["f1"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert "left_to_right" not in found
    nearest = matching_metrics(decoders.nearest(candidates), truth)
    assert nearest["left_to_right"]["hits@1"] == nearest["recall"] == 2 / 3
    empty = matching_metrics(candidates.mutual(9.0), truth)
    assert (empty["matched"], empty["precision"], empty["f1"]) == (0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12))
def test_the_best_threshold_is_the_best(pairs):
    scores, correct = np.array([s for s, _ in pairs], dtype=float), np.array([c for _, c in pairs])

    def f1(threshold):
        kept = scores >= threshold
        return 2 * correct[kept].sum() / (kept.sum() + len(scores))

    chosen = decoders.best_threshold(scores, correct)
    assert f1(chosen) == pytest.approx(max(f1(s) for s in scores))


def test_a_threshold_leaves_entities_without_counterpart():
    matching = decoders.nearest(complete(np.array([[0.9, 0.1], [0.2, 0.3]])))
    assert matching.above(0.5).pairs.tolist() == [[0, 0]]
    assert len(matching.above(2.0).pairs) == 0
    rows = matching.best(2)[1]
    assert rows.tolist() == [[0, 1], [1, 0]]
    assert complete(np.eye(2)).mutual(2.0).best(1)[1].tolist() == [[-1], [-1]]


@pytest.mark.parametrize("name", decoders.decoder_names())
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (1, 1), (6, 1)])
def test_what_every_decoder_owes(name, shape):
    """Pairs of its candidates, each once and by left row, with finite scores; a plan over the same candidates."""
    left, right = sides(*shape)
    decoder = decoders.get_decoder(name)
    candidates = find_candidates(left, right, k=3, csls_k=min(2, *shape) if decoder.scores == "csls" else 0)
    found = decoder.match(candidates)
    assert found.num_left == shape[0]
    assert found.pairs.dtype == np.int64
    assert found.pairs.shape == (len(found.scores), 2)
    assert np.isfinite(found.scores).all()
    pairs = [tuple(pair) for pair in found.pairs.tolist()]
    assert pairs == sorted(set(pairs))
    assert set(pairs) <= set(zip(candidates.left.tolist(), candidates.right.tolist(), strict=True))
    if found.plan is not None:
        assert np.array_equal(found.plan.left, candidates.left)
        assert np.array_equal(found.plan.right, candidates.right)
    assert decoder.summary


def test_one_line_registers_a_decoder(monkeypatch):
    from loginmea_fast.evaluation.decoders import base

    monkeypatch.setattr(base, "_DECODERS", dict(base._DECODERS))
    decoders.register_decoder("first", lambda c: c.matching(np.arange(1)), "cosine", "the first candidate")
    left, right = sides(5, 5)
    assert "first" in chosen_decoders("all")
    assert decoder_metrics(["first"], left, right, torch.tensor([[0, 0]]), 2, 0)["first"]["matched"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scores": torch.tensor([[float("nan")], [1.0]])},
            "to_right holds a score that is not finite, in row 0",
        ),
        ({"scores": torch.tensor([[1.0], [float("inf")]])}, "not finite, in row 1"),
        ({"index": torch.tensor([[0], [3]])}, "must list rows 0 to 2; got 0 to 3"),
        ({"index": torch.tensor([[0], [-1]])}, "must list rows 0 to 2; got -1"),
        ({"scores": torch.ones(2, 2)}, r"scores and index \[n, k\] alike; got \[2, 2\] and \[2, 1\]"),
        ({"scores": torch.ones(0, 1), "index": torch.ones(0, 1).long()}, "at least one row"),
    ],
)
def test_bad_lists(change, message):
    lists = {"scores": torch.ones(2, 1), "index": torch.zeros(2, 1, dtype=torch.int64)} | change
    back = TopK(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(InputError, match=message):
        Candidates.from_topk(TopK(**lists), back)


def test_bad_arguments():
    left, right = sides(5, 4)
    with pytest.raises(InputError, match="entities on both sides; got 5 on the left and 0 on the right"):
        find_candidates(left, right[:0])
    with pytest.raises(InputError, match="k must be a whole number of at least 1; got 0"):
        find_candidates(left, right, k=0)
    assert len(find_candidates(left, right, k=999).scores) == 20, "k beyond the candidates takes all"
    with pytest.raises(InputError, match="not finite"):
        find_candidates(left * float("nan"), right)
    for option in ("temperature", "iterations", "tolerance"):
        with pytest.raises(InputError, match=f"{option} of Sinkhorn must be above 0; got 0"):
            sinkhorn(complete(np.eye(2)), **{option: 0})
        with pytest.raises(InputError, match=f"{option} of Sinkhorn must be a number; got 'many'"):
            sinkhorn(complete(np.eye(2)), **{option: "many"})
    with pytest.raises(InputError, match=r"iterations of Sinkhorn must be a whole number; got 2\.5"):
        sinkhorn(complete(np.eye(2)), iterations=2.5)
    with pytest.raises(InputError, match="threshold must be a number; got nan"):
        complete(np.eye(2)).mutual().above(float("nan"))
    with pytest.raises(InputError, match="needs finite scores; got nan in row 1"):
        decoders.best_threshold(np.array([1.0, np.nan]), np.ones(2, dtype=bool))
    with pytest.raises(ConfigError, match=r"decoder must be one of cosine, .*sinkhorn, all; got 'best'"):
        chosen_decoders("best")
    with pytest.raises(InputError, match="scores and flags of the same pairs"):
        decoders.best_threshold(np.ones(2), np.ones(3, dtype=bool))
