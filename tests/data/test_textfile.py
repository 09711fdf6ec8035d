"""How text may be stored: compressions, encodings, ends of lines; and what stands where text was meant."""

import bz2
import gzip

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.data import textfile
from loginmea_fast.data.encodings import unmarked_encodings
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


CHINESE = {
    "ent_ids_1": "0\t上海\n1\t一一一\n4\t利物浦足球俱乐部\n6\t北京\n",
    "ent_ids_2": "2\t丁\n3\t七\n5\t三\n7\t上\n",
    "training_attrs_1": "上海\t人口\t面积\n一一一\t人口\n",
    "training_attrs_2": "丁\t人口\n",
    "translated_names_json": '[[0,["一"]],[2,["丁一"]]]',
}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_text_with_few_zero_bytes_is_read_without_a_mark(tiny, encoding):
    """Chinese in UTF-16 was taken for UTF-8: few of its bytes are zero, and of some characters the wrong ones."""
    directory = tiny(**CHINESE)
    plain = facts(data.load(directory))
    store(directory, lambda raw: raw.decode().encode(encoding))
    pair = data.load(directory)
    assert facts(pair) == plain
    assert all(
        f"{name} is {encoding.upper()}, read as such" in pair.notes for name in ("ent_ids_1", "triples_2")
    )


def test_text_that_may_be_in_either_order_of_bytes_is_refused(tiny):
    directory = tiny(translated_names_json=None)
    (directory / "translated_names.json").write_bytes("一N一N".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"may be UTF-16-LE or UTF-16-BE and has no byte.*iconv -f UTF-16-LE"):
        data.load(directory)


@given(st.text(st.characters(codec="utf-16", exclude_categories=["Cc", "Cn", "Co", "Cs"]), min_size=1))
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_lines_of_fields_are_told_whatever_their_script(encoding, name):
    text = "".join(f"{number}\t{name}\n" for number in range(4))
    assert unmarked_encodings(text.encode(encoding)) == [encoding]
    assert unmarked_encodings(text.encode("utf-8")) == ["utf-8"]


@pytest.mark.parametrize(
    ("encoding", "text", "first", "others"),
    [
        ("latin-1", "Bogotá", "WINDOWS-1252", []),
        ("cp1252", "Düsseldorf, Köln, Ärzte", "WINDOWS-1252", []),
        ("gb18030", "利物浦足球俱乐部", "GB18030", ["WINDOWS-1252"]),
        ("gb18030", "城市在中国的东部人口一千万", "GB18030", []),
        ("big5", "臺北是中華民國的首都", "BIG5", []),
        ("euc_kr", "서울은 대한민국의 수도이다", "EUC-KR", ["GB18030"]),
        ("shift_jis", "ひらがなカタカナ", "SHIFT_JIS", ["WINDOWS-1252"]),
        ("euc_jp", "ひらがなカタカナ", "EUC-JP", []),
    ],
)
@pytest.mark.parametrize(
    ("name", "form"),
    [("ent_ids_1", "0\ta\n1\t{}\n4\tc\n6\td\n"), ("translated_names.json", '\n[[0, ["{}"]]]')],
)
def test_another_encoding_is_an_error_that_shows_how_it_would_read(
    tiny, encoding, text, first, others, name, form
):
    """GB18030 was told to be Latin-1. Nothing is guessed in silence: the reader sees which reading is right."""
    directory = tiny()
    (directory / name).write_bytes(form.replace("{}", text).encode(encoding))
    with pytest.raises(DataError) as error:
        data.load(directory)
    message = str(error.value)
    assert f"{name}, line 2: not valid UTF-8; it would read as {first} " in message
    assert text[:6] in message
    assert all(f"as {other} " in message for other in others)
    assert f"iconv -f {first} -t UTF-8 {name} > {name}.utf8" in message
    assert len(message) < 700


def test_one_damaged_character_is_no_other_encoding(tiny):
    directory = tiny()
    raw = (directory / "ent_ids_1").read_bytes().replace(b"D%C3%A9lta", b"D\xc3lta")
    (directory / "ent_ids_1").write_bytes(raw.replace(b"Alpha", "上海市".encode() * 3))
    told = "ent_ids_1, line 4: not valid UTF-8; its other lines are, so this one is damaged"
    with pytest.raises(DataError, match=told):
        data.load(directory)


@pytest.mark.parametrize("name", ["ent_ids_1", "training_attrs_1", "translated_names.json"])
def test_a_zero_byte_is_no_text(tiny, name):
    directory = tiny()
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[:9] + b"\0" + content[9:])
    with pytest.raises(DataError, match=rf"{name}, line 1: holds a zero byte"):
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
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5 file, and text is expected"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00" + bytes(40), "array of numpy, and text is expected"),
    "pickle": (b"\x80\x04\x95" + bytes(40), "pickle, and text is expected"),
    "Parquet": (b"PAR1" + bytes(40), "Parquet file, and text is expected"),
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


OTHER = {",": "commas", ";": "semicolons", " ": "blanks", "|": "bars"}


@pytest.mark.parametrize("suffix", ["", ".csv"])
@pytest.mark.parametrize("separator", OTHER)
def test_other_separators_than_tabs_are_told(tiny, tiny_openea, separator, suffix):
    for build, names in (
        (tiny, ["ent_ids_1", "triples_2", "ill_ent_ids", "training_attrs_1"]),
        (tiny_openea, ["rel_triples_1", "attr_triples_2", "ent_links", "721_5fold/1/test_links"]),
    ):
        for name in names:
            directory = build()
            if separator == " " and name in ("triples_2", "ill_ent_ids"):
                continue  # blanks are read there
            if name == "training_attrs_1":
                continue  # an entity without a type looks so
            path = directory / name
            path.write_text(path.read_text().replace("\t", separator))
            path.rename(path.with_name(path.name + suffix))
            with pytest.raises(
                DataError, match=rf"line 1: .*divided by {OTHER[separator]}: write the file with tabs"
            ):
                data.load(directory)
            path.with_name(path.name + suffix).unlink()


def test_tabs_under_the_name_of_commas_are_read(tiny):
    directory = tiny(translated_names_json=None)
    plain = facts(data.load(directory))
    store(directory, bytes, ".csv")
    assert facts(data.load(directory)) == plain


@pytest.mark.parametrize("ending", [".h5", ".npy", ".parquet", ".json"])
def test_what_stands_in_the_place_of_a_missing_file_is_named(tiny, tiny_openea, ending):
    for build, name in ((tiny, "ill_ent_ids"), (tiny_openea, "rel_triples_2")):
        directory = build()
        if name == "rel_triples_2":
            (directory / "attr_triples_2").unlink()
        (directory / name).rename(directory / f"{name}{ending}")
        with pytest.raises(
            DataError, match=rf"{name} is missing.*\({name}{ending} is there, but its files are text"
        ):
            data.load(directory)


@pytest.mark.parametrize(
    ("name", "line", "field"),
    [
        ("ent_ids_1", "0\t\n", 2),
        ("training_attrs_1", "\tage\n", 1),
        ("attr_triples_1", "http://a/resource/Alpha\t\t5\n", 2),
    ],
)
def test_an_empty_field_is_no_identifier(tiny, tiny_openea, name, line, field):
    """An entity, a relation or an attribute without a name came of it."""
    cases = [(tiny(**{name: line}), name, field)]
    for openea, text, empty in (
        ("rel_triples_1", "http://a/x\thttp://a/r\t\n", 3),
        ("rel_triples_1", "http://a/x\t\thttp://a/y\n", 2),
        ("ent_links", "http://a/x\t\n", 2),
    ):
        cases.append((tiny_openea({openea: text}), openea, empty))
        for directory, file, number in cases[-1:]:
            with pytest.raises(DataError, match=rf"{file}, line 1: .*whose field {number} is empty"):
                data.load(directory)
        tiny_openea()
    if name == "attr_triples_1":
        (cases[0][0] / "training_attrs_1").unlink()
    with pytest.raises(DataError, match=rf"{name}, line 1: .*whose field {field} is empty"):
        data.load(cases[0][0])


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("rel_triples_1", "head\trelation\ttail"),
        ("rel_triples_2", "Subject\tPredicate\tObject"),
        ("attr_triples_1", "entity\tattribute\tvalue"),
        ("attr_triples_2", "head_id\tattribute_name\tvalue"),
    ],
)
def test_names_of_columns_are_no_entities(tiny_openea, name, header):
    with pytest.raises(DataError, match=rf"{name}, line 1: .* names the columns, .*; delete the line"):
        data.load(tiny_openea({name: f"{header}\n{OPENEA[name]}"}))


def test_statements_between_blanks_are_told_to_be_n_triples(tiny_openea):
    with pytest.raises(
        DataError, match=r"rel_triples_1, line 1: .*that is N-Triples: name the graphs left.nt"
    ):
        data.load(tiny_openea({"rel_triples_1": "<http://a/x> <http://a/r> <http://a/y> .\n"}))
    with pytest.raises(DataError, match="found '# made by hand'; correct or delete the line"):
        data.load(tiny_openea({"rel_triples_1": f"# made by hand\n{OPENEA['rel_triples_1']}"}))
