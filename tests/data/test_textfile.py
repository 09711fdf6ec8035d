"""How text may be stored: compressions, encodings, ends of lines; and what stands where text was meant."""

import bz2
import gzip

import numpy as np
import pytest
import zstandard

import loginmea_fast.data as data
from loginmea_fast.data import textfile
from loginmea_fast.errors import DataError
from tests.data.conftest import OPENEA, TINY

COMPRESS = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}
UMLAUTS = {
    "ent_ids_1": "0\tAlphä\n1\tBetä\n4\t金大中\n6\tDelta\n",
    "training_attrs_1": "金大中\tsize\tage\nBetä\tage\n",
}


def store(directory, change, rename=""):
    for path in [path for path in directory.rglob("*") if path.is_file()]:
        content = change(path.read_bytes())
        path.unlink()
        path.with_name(path.name + rename).write_bytes(content)
    return directory


def facts(pair):
    table = pair.attributes
    return (
        pair.uris,
        pair.triples.tolist(),
        pair.links.tolist(),
        None if table is None else (table.entity.tolist(), table.kind.tolist(), table.types),
        pair.words,
        pair.official_split and [part.tolist() for part in vars(pair.official_split).values()],
    )


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("named", [True, False])
def test_compressed_files_of_either_layout(tiny, tiny_openea, suffix, named):
    for directory in (tiny(**UMLAUTS), tiny_openea()):
        plain = facts(data.load(directory))
        store(directory, COMPRESS[suffix], suffix if named else "")
        assert facts(data.load(directory)) == plain


@pytest.mark.parametrize("suffix", [".txt", ".tsv", ".txt.gz"])
def test_names_with_a_suffix(tiny, suffix):
    directory = tiny(translated_names_json=None)
    plain = facts(data.load(directory))
    store(directory, gzip.compress if suffix.endswith("gz") else bytes, suffix)
    assert facts(data.load(directory)) == plain


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_encodings_are_read_and_named(tiny, tiny_openea, encoding, compress):
    for directory in (tiny(**UMLAUTS), tiny_openea()):
        plain = facts(data.load(directory))
        store(directory, lambda raw: compress(raw.decode().encode(encoding)))
        pair = data.load(directory)
        assert facts(pair) == plain
        said = [note for note in pair.notes if encoding.upper()[:6] in note]
        assert bool(said) == (encoding != "utf-8-sig")


def test_marked_utf_16_has_its_mark_taken_off(tiny):
    mark = b"\xff\xfe"
    directory = store(tiny(), lambda raw: mark + raw.decode().encode("utf-16-le"))
    assert data.load(directory).uris[0] == "http://a/resource/Alpha"


@pytest.mark.parametrize(
    ("encoding", "text", "name"),
    [
        ("latin-1", "Bogotá", "Windows-1252 or Latin-1"),
        ("cp1252", "Düsseldorf, Köln", "Windows-1252 or Latin-1"),
        ("gb18030", "利物浦足球俱乐部", "GB18030"),
        ("shift_jis", "ひらがなカタカナ", "Shift JIS"),
    ],
)
def test_another_encoding_is_an_error_that_names_it(tiny, encoding, text, name):
    directory = tiny()
    (directory / "ent_ids_1").write_bytes(f"0\ta\n1\t{text}\n4\tc\n6\td\n".encode(encoding))
    with pytest.raises(DataError, match=rf"ent_ids_1, line 2: not valid UTF-8, it looks like {name}"):
        data.load(directory)


def test_utf_16_that_is_cut(tiny):
    directory = tiny()
    (directory / "ent_ids_1").write_bytes(TINY["ent_ids_1"].encode("utf-16")[:-1])
    with pytest.raises(DataError, match="ent_ids_1 begins as UTF-16-LE but is not"):
        data.load(directory)


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\r\r\n"])
def test_ends_of_lines(tiny, ending):
    directory = tiny(translated_names_json=None)
    plain = facts(data.load(directory))
    store(directory, lambda raw: raw.replace(b"\n", ending.encode()))
    assert facts(data.load(directory)) == plain


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_that_are_damaged(tiny, suffix):
    directory = tiny()
    whole = COMPRESS[suffix]("".join(f"{i}\t{i * 7919}\n" for i in range(5000)).encode())
    damages = [whole[:-3], whole[: len(whole) // 2]]
    if suffix != ".zst":  # which has a checksum only if its writer was asked for one
        damages.append(whole[:40] + b"\x55\xaa" + whole[42:])
    for damaged in damages:
        (directory / "ent_ids_1").write_bytes(damaged)
        with pytest.raises(DataError, match=r"ent_ids_1 is \w+ data that is cut short or damaged"):
            data.load(directory)


FOREIGN = {
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
    "zip": (b"PK\x03\x04" + bytes(40), "zip archive; unpack"),
    "tar": (bytes(257) + b"ustar\x0000" + bytes(300), "tar archive; unpack"),
    "xz": (b"\xfd7zXZ\x00" + bytes(40), "xz data; unpack"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_what_stands_where_text_was_meant(tiny, tiny_openea, kind, compress):
    content, expected = FOREIGN[kind]
    for build, name in ((tiny, "triples_1"), (tiny_openea, "ent_links"), (tiny, "translated_names.json")):
        directory = build()
        (directory / name).write_bytes(compress(content))
        with pytest.raises(DataError, match=f"{name} is an? {expected}|{name} is {expected}"):
            data.load(directory)


def test_blocks_are_lines_wherever_they_are_cut(tiny, tiny_openea, monkeypatch):
    """Blocks of a few bytes give what one block gives, and errors name the same line."""
    directories = [tiny(**UMLAUTS), tiny_openea()]
    plain = [facts(data.load(directory)) for directory in directories]
    for size in (1, 7, 30):
        monkeypatch.setattr(textfile, "_BLOCK", size)
        assert [facts(data.load(directory)) for directory in directories] == plain
    (directories[0] / "triples_1").write_text("0\t0\t1\n" * 9 + "0\t1\n" + "0\t0\t1\n")
    (directories[1] / "ent_links").write_text("http://a/x\thttp://b/x\n" * 4 + "x\n")
    for directory, place in zip(directories, ["triples_1, line 10", "ent_links, line 5"], strict=True):
        with pytest.raises(DataError, match=place):
            data.load(directory)


def test_blank_lines_at_the_end_alone_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(textfile, "_BLOCK", 4)
    (tmp_path / "ids").write_text("0\n1\n\n\n   \n\n")
    assert textfile.read_integers(tmp_path / "ids", 1, "id").tolist() == [[0], [1]]
    (tmp_path / "ids").write_text("0\n1\n\n\n\n2\n")
    with pytest.raises(DataError, match="ids, line 3: expected 1 columns"):
        textfile.read_integers(tmp_path / "ids", 1, "id")


def test_integers_are_those_of_int(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 10**18, (50, 3)).tolist()
    (tmp_path / "ids").write_text("".join(f" {a} {b}\t\t{c} \n" for a, b, c in numbers))
    assert textfile.read_integers(tmp_path / "ids", 3, "ids").tolist() == numbers


@pytest.mark.parametrize("length", [100, 1 << 20])
def test_an_error_stays_short_whatever_the_file(tiny, tiny_openea, length):
    long = "x" * length
    cases = [
        (tiny, {"triples_1": f"0\t{long}\t1\n"}),
        (tiny, {"ent_ids_1": f"0\t{long}\t{long}\n"}),
        (tiny, {"ent_ids_1": f"{long}\ta\n"}),
        (tiny, {"ill_ent_ids": f"{long}\t{long}\n"}),
        (tiny, {"training_attrs_1": f"{long}\t{long}\n"}),
        (tiny, {"rel_ids_1": f"{long}\ta\n"}),
        (tiny, {"translated_names_json": f'[["{long}"]]'}),
        (tiny, {"translated_names_json": f"[[{long}]]"}),
        (tiny, {"translated_names_json": f'[["{long}", ["a"]]]'}),
    ]
    openea = [{name: f"{long}\t\n"} for name in ("rel_triples_1", "ent_links")]
    openea += [{name: f"{long}\t{long}\n"} for name in OPENEA if name != "ent_links" and "rel" not in name]
    messages = []
    for build, replaced in cases:
        with pytest.raises(DataError) as error:
            data.load(build(**replaced))
        messages.append(str(error.value))
    for replaced in openea:
        with pytest.raises(DataError) as error:
            data.load(tiny_openea(replaced))
        messages.append(str(error.value))
    assert max(len(message) for message in messages) < 700
    assert not any("\n" in message for message in messages)
    (tiny() / "rel_ids_1").unlink()
    last = TINY["ent_ids_1"].replace("http://a/resource/D%C3%A9lta", long)
    pair = data.load(tiny(ill_ent_ids="6\t2\n6\t3\n", ent_ids_1=last))
    assert max(map(len, pair.notes)) < 400


@pytest.mark.parametrize("first", ["BZhang", "Rar!", "<Headington>", "<html>", "<HTML5>", "<Head of state>"])
def test_entities_that_begin_like_something_else(tiny_openea, first):
    """YAGO's entities stand in brackets, and three letters are no bzip2."""
    other = OPENEA["ent_links"].replace("http://a/x", first)
    pair = data.load(
        tiny_openea(
            {
                "rel_triples_1": f"{first}\thttp://a/r\thttp://a/y\n",
                "attr_triples_1": f"{first}\tage\t1\nhttp://a/z\tage\t2\n",
                "ent_links": other,
                **{name: None for name in OPENEA if name.startswith("721")},
            }
        )
    )
    assert pair.uris[0] == first
    assert len(pair.links) == 3


@pytest.mark.parametrize(
    ("suffix", "magic", "told"), [(".xz", b"\xfd7zXZ", "xz data"), (".zip", b"PK\x03\x04", "a zip")]
)
def test_what_is_packed_as_nobody_reads_it_is_named(tiny, suffix, magic, told):
    directory = tiny(ent_ids_1=None)
    (directory / f"ent_ids_1{suffix}").write_bytes(magic + bytes(20))
    with pytest.raises(DataError, match=f"ent_ids_1{suffix} is {told}.*; unpack it first"):
        data.load(directory)
