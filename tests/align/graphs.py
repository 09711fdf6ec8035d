"""Two graphs in files, as people have them, and the pairs between them."""

from __future__ import annotations

from pathlib import Path

from tests.training.synthetic import synthetic_pair

LABEL = "http://www.w3.org/2000/01/rdf-schema#label"


def write_graphs(folder: Path, count: int = 150) -> Path:
    """left and right as N-Triples, Turtle and CSV, half of the names alike; 60 pairs in seeds.tsv, more in gold.tsv."""
    pair = synthetic_pair(count, degree=5, relations=12)
    right = set(pair.right_entities.tolist())
    spaces = ["http://left.example/", "http://right.example/"]
    of = {entity: f"{spaces[entity in right]}e{entity}" for entity in range(2 * count)}
    names = {}
    for number, (a, b) in enumerate(pair.links.tolist()):
        names[a], names[b] = f"Name of {number}", f"name of {number}" if number % 2 else f"nom de {number}"
    for side, name in enumerate(("left", "right")):
        own = [row for row in pair.triples.tolist() if (row[0] in right) == bool(side)]
        lines = [f"<{of[h]}> <http://r.example/{r}> <{of[t]}> ." for h, r, t in own]
        lines += [f'<{of[e]}> <{LABEL}> "{names[e]}" .' for e in of if (e in right) == bool(side)]
        for suffix in ("nt", "ttl"):  # what is N-Triples is Turtle, too
            (folder / f"{name}.{suffix}").write_text("\n".join(lines) + "\n")
        rows = ["head,relation,tail", *(f"{of[h]},{r},{of[t]}" for h, r, t in own)]
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    known = [f"{of[a]}\t{of[b]}" for a, b in pair.links.tolist()]
    (folder / "seeds.tsv").write_text("\n".join(["left\tright", *known[:60]]) + "\n")
    (folder / "gold.tsv").write_text("\n".join(known[60:]) + "\n")
    return folder
