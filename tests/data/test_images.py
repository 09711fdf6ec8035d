"""Pictures in a folder and vectors in Parquet, named by entity."""

from __future__ import annotations

import sys
from urllib.parse import quote

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image, ImageDraw
from pyarrow import parquet

import loginmea_fast as lf
from loginmea_fast import data
from loginmea_fast.data.images import image_statistics
from loginmea_fast.errors import DataError

LEFT = [("http://a/x", "r", "http://a/y"), ("http://a/y", "r", "http://a/z")]
RIGHT = [("http://b/x", "r", "http://b/y"), ("http://b/y", "r", "http://b/z")]


def build(vectors):
    return lf.AlignmentPair.from_labeled_triples(
        LEFT, RIGHT, [("http://a/x", "http://b/x")], vectors=vectors, modalities=list(vectors)
    )


def picture(kind, size=(90, 60)):
    image = Image.new("RGB", size, {"flag": "white", "disc": "white", "night": "navy"}[kind])
    draw = ImageDraw.Draw(image)
    width, height = size
    if kind == "flag":
        draw.rectangle((0, 0, width, height // 2), fill="red")
    elif kind == "disc":
        draw.ellipse((width // 4, height // 5, 3 * width // 4, 4 * height // 5), fill="red")
    else:
        draw.line((0, 0, width, height), fill="yellow", width=5)
    return image


@pytest.mark.parametrize("folders", [False, True])
def test_a_folder_of_pictures_named_by_entity(tmp_path, folders):
    for side, size in (("a", (90, 60)), ("b", (300, 210))):
        (tmp_path / side).mkdir()
        for name, kind in (("x", "flag"), ("y", "disc"), ("z", "night")):
            stem = quote(f"http://{side}/{name}", safe="")
            if folders:
                (tmp_path / side / stem).mkdir()
                picture(kind, size).save(tmp_path / side / stem / "1.png")
            else:
                picture(kind, size).save(tmp_path / side / f"{stem}.{'png' if side == 'a' else 'jpg'}")
    pair = build({"image": [tmp_path / "a", tmp_path / "b"]})
    feature = pair.features["image"]
    assert feature.values.shape == (6, 264)
    assert bool(feature.present.all())
    similar = feature.values[:3] @ feature.values[3:].T
    assert similar.argmax(1).tolist() == [0, 1, 2]
    assert similar.argmax(0).tolist() == [0, 1, 2]


def test_pictures_that_are_none_are_told(tmp_path):
    folder = tmp_path / "features_image"
    folder.mkdir()
    picture("flag").save(folder / "x.png")
    picture("flag").convert("P").save(folder / "y_0.gif")
    picture("disc").convert("RGBA").save(folder / "y_1.webp")
    (folder / "z.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "README.txt").write_text("flags")
    pair = lf.AlignmentPair.from_labeled_triples(
        [("x", "r", "y")], [("X", "r", "Y")], [("x", "X")], vectors={"image": folder}
    )
    assert pair.features["image"].present.tolist() == [True, True, False, False]
    notes = " ".join(pair.notes)
    assert "'z.png' not read" in notes
    assert "several vectors" in notes
    data.save(pair, tmp_path / "pair", "csv")
    (tmp_path / "pair" / "features_image.safetensors").unlink()
    folder.rename(tmp_path / "pair" / "features_image")
    assert torch.equal(
        data.load(tmp_path / "pair", modalities="image").features["image"].values,
        pair.features["image"].values,
    )


def test_folders_without_pictures_and_without_pillow(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a directory; name a file of vectors"):
        build({"image": tmp_path / "empty"})
    (tmp_path / "empty" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="holds no picture that can be read"):
        build({"image": tmp_path / "empty"})
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="pip install pillow"):
        build({"image": tmp_path / "empty"})


def test_statistics_of_pictures():
    flat = image_statistics(np.full((64, 64, 3), 255, dtype=np.uint8))
    assert flat.shape == (264,)
    assert np.allclose(flat[:72], 0.5)
    assert flat[72:136].tolist() == [0.0] * 63 + [1.0]
    assert not flat[136:].any()
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, 32:] = 255  # one edge, upright: its gradient points across
    edges = image_statistics(stripes)[136:].reshape(4, 4, 8)
    assert edges[:, 1:3, 0].all()
    assert np.isclose((edges**2).sum(), 1)
    assert np.isclose((edges[:, 1:3, 0] ** 2).sum(), 1)


ROWS = np.array([[3.0, 4.0], [0.0, 1.0]], dtype=np.float32)
URIS = ["http://a/x", "http://b/y"]


@pytest.mark.parametrize(
    "table",
    [
        {"uri": URIS, "embedding": ROWS.tolist()},
        {"embedding": pyarrow.array(ROWS.tolist(), pyarrow.list_(pyarrow.float16(), 2)), "entity": URIS},
        {"f0": ROWS[:, 0], "f1": ROWS[:, 1], "whose": URIS},
        {"id": [0, 4], "v": ROWS.tolist()},
        {"uri": [*URIS, "http://a/z"], "v": [*ROWS.tolist(), None]},
    ],
)
def test_vectors_in_parquet(tmp_path, table):
    parquet.write_table(pyarrow.table(table), tmp_path / "features_image.parquet")
    feature = build({"image": tmp_path / "features_image.parquet"}).features["image"]
    assert feature.present.tolist() == [True, False, False, False, True, False]
    assert feature.values[0].tolist() == pytest.approx([0.6, 0.8], abs=1e-3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"uri": URIS, "v": [[1.0], [1.0, 2.0]]}, "lists of 1 and of 2 numbers"),
        ({"uri": URIS, "other": URIS}, "has the columns 'uri', 'other'"),
        ({"uri": URIS, "v": ROWS.tolist(), "w": ROWS.tolist()}, "expected one of keys and one of lists"),
    ],
)
def test_parquet_that_holds_no_vectors(tmp_path, table, message):
    parquet.write_table(pyarrow.table(table), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message):
        build({"image": tmp_path / "v.parquet"})
