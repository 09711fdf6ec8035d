from __future__ import annotations

import numpy as np
import pytest
import torch

from loginmea_fast.data import Feature
from loginmea_fast.runs.aligning import near
from loginmea_fast.runs.aligning.near import near_names, near_pictures

OTHERS = [
    "gare de lyon",
    "mont blanc",
    "sheffield wednesday",
    "minnesota",
    "hertha berlin",
    "notre dame",
    "boxing",
]


def names(*chosen: str) -> dict[int, str]:
    return dict(enumerate([*chosen, *OTHERS]))


@pytest.mark.parametrize(
    ("left", "right", "alike"),
    [
        ("carl andrew spaatz", "carl andrew spatz", True),
        ("army distinguished service medal", "distinguished service medal army", True),
        ("survivor series 2002", "survivor series 2003", False),  # numbers tell apart
        ("barcelona", "boston", False),
        ("", "", False),
    ],
)
def test_names_that_are_nearly_the_same(left: str, right: str, alike: bool) -> None:
    assert (near_names(names(left), names(right)).get(0) == 0) == alike


def test_what_two_names_resemble_is_nobodys() -> None:
    assert near_names(names("john paul smith"), names("john paul smithe"))[0] == 0
    assert 0 not in near_names(names("john paul smith"), names("john paul smithe", "john paul smitha"))
    assert 0 not in near_names(names("same name", "same name"), names("same name"))
    assert near_names({}, names("x")) == {}


def test_likely_names_are_those_that_all_comparisons_find(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop"))
    left = {i: "".join(generator.choice(letters, 9)) for i in range(600)}
    right = {
        i + 1000: text[:-1] + "z" if i % 2 else "".join(generator.choice(letters, 9))
        for i, text in left.items()
    }
    monkeypatch.setattr(near, "_COMMON", 10)
    found = near_names(left, right)
    monkeypatch.setattr(near, "_COMMON", 10_000)
    monkeypatch.setattr(near, "_CANDIDATES", 10_000)
    every = near_names(left, right)
    assert len(every) > 80
    assert all(b == a + 1000 and a % 2 for a, b in every.items())
    assert found.items() <= every.items()
    assert len(found) > 0.9 * len(every)


def test_pictures_that_are_nearly_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(30, 24, generator=generator) + 5  # a common part, as of most encoders
    other = own + 0.1 * torch.randn(30, 24, generator=generator)
    other[10:] = torch.randn(20, 24, generator=generator) + 5
    other[1] = other[0]  # one picture for two
    present = torch.ones(60, dtype=torch.bool)
    present[2] = False
    feature = Feature(torch.cat([own, other]), present, "vectors")
    found = near_pictures(feature, np.arange(30), np.arange(30, 60))
    assert found == {i: i + 30 for i in range(3, 10)}
    nobody = Feature(torch.cat([own, other]), torch.zeros(60, dtype=torch.bool), "vectors")
    assert near_pictures(nobody, np.arange(30), np.arange(30, 60)) == {}
