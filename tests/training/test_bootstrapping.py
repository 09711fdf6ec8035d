from __future__ import annotations

import torch

from loginmea_fast.training.bootstrapping import Bootstrapping
from loginmea_fast.training.config import Config

LEFT, RIGHT = torch.arange(0, 6), torch.arange(6, 12)
TRAIN = torch.tensor([[0, 6], [1, 7]])
NONE = torch.empty(0, 2, dtype=torch.int64)


def build(**values):
    return Bootstrapping(Config.build({"bootstrap": True, "rounds": 0, **values}), LEFT, RIGHT, TRAIN, NONE)


def finder(*rounds):
    """Proposes what `rounds` say, as pairs of entity ids, one set a round; keeps the pools it was shown."""
    remaining, pools = iter(rounds), []

    def find(left, right):
        pools.append((left.tolist(), right.tolist()))
        pairs = [(left.tolist().index(a), right.tolist().index(b)) for a, b in next(remaining)]
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)

    return find, pools


def run(bootstrapping, find, epochs):
    return [bootstrapping.round(epoch, find) for epoch in range(epochs) if bootstrapping.due(epoch)]


def test_a_pair_joins_after_a_window_of_mutual_rounds():
    b = build(bootstrap_start=0, bootstrap_every=1, bootstrap_window=3)
    find, pools = finder([(2, 8), (3, 9)], [(2, 8), (4, 10)], [(2, 8), (3, 9), (4, 10)], [(3, 9)])
    assert run(b, find, 3) == [0, 0, 1]
    assert b.links.tolist() == [[0, 6], [1, 7], [2, 8]]
    assert len(b.candidates) == 0
    b.round(3, find)
    assert b.candidates.tolist() == [[3, 9]], "a new window takes what its first round proposes"
    assert pools[0] == ([2, 3, 4, 5], [8, 9, 10, 11])
    assert pools[3] == ([3, 4, 5], [9, 10, 11]), "who joined is no longer in the pool"


def test_a_rejected_pair_never_joins():
    config = Config.build({"bootstrap": True, "rounds": 0, "bootstrap_window": 1})
    b = Bootstrapping(config, LEFT, RIGHT, TRAIN, torch.tensor([[2, 8], [3, 8]]))
    find, _ = finder([(2, 8), (3, 9)])
    epoch = next(e for e in range(100) if b.due(e))
    assert b.round(epoch, find) == 1
    assert b.joined.tolist() == [[3, 9]]


def test_rounds_come_every_few_epochs_after_the_start():
    config = {"bootstrap_start": 4, "bootstrap_every": 3}
    assert [e for e in range(15) if build(**config).due(e)] == [5, 8, 11, 14]
    assert not any(Bootstrapping(Config(), LEFT, RIGHT, TRAIN, NONE).due(e) for e in range(100))


def test_the_first_round_opens_a_window_whatever_the_start():
    for start in range(1, 12):
        b = build(bootstrap_start=start, bootstrap_every=2, bootstrap_window=2)
        find, _ = finder([(2, 8)], [(2, 8)], *[[]] * 20)
        assert run(b, find, 20)[:2] == [0, 1], start


def test_authors_windows_are_counted_from_epoch_zero():
    """run.py: new candidates where (epoch + 1) % (10 step) == step, elected where it is 0."""
    step, window = 5, 10
    b = build(compat="authors", bootstrap_start=70, bootstrap_every=step, bootstrap_window=window)
    places = {epoch: b._place_in_window(epoch) for epoch in range(200) if b.due(epoch)}
    assert min(places) == 74
    for epoch, place in places.items():
        assert (place == 0) == ((epoch + 1) % (step * window) == step)
        assert (place == window - 1) == ((epoch + 1) % (step * window) == 0)


def test_authors_start_inside_a_window_idles_until_the_next():
    b = build(compat="authors", bootstrap_start=1, bootstrap_every=1, bootstrap_window=3)
    find, _ = finder(*[[(2, 8)]] * 5)
    assert run(b, find, 6) == [0, 0, 0, 0, 1]


def test_an_empty_pool_is_no_error():
    b = Bootstrapping(Config(bootstrap=True, rounds=0), LEFT[:2], RIGHT, TRAIN, NONE)
    find, pools = finder()
    assert b.round(21, find) == 0
    assert pools == []
