"""Renders the table of loginmea_fast/ops/_device_choice.py from a card's record.

python scripts/render_device_choice.py bench/results/<card>/gpu.json
python scripts/render_device_choice.py RECORD --print      # what the table would become
"""

from __future__ import annotations

import argparse
import json
import pprint
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.gpu.table import Choice, choice  # noqa: E402

MODULE = ROOT / "loginmea_fast" / "ops" / "_device_choice.py"


def rendered(table: Choice, measured_on: str | None) -> str:
    """The lines between the marks."""
    kind = "dict[str, dict[str, list[tuple[int, str]]]]"
    return (
        f"MEASURED_ON: str | None = {json.dumps(measured_on) if measured_on else None}  # card and date of the record\n"
        f"TABLE: {kind} = {pprint.pformat(table, width=100)}"
        "  # operator -> dtype -> (up to this width, first backend)\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table, or prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--print", action="store_true", help="leave the module as it is")
    options = parser.parse_args(arguments)
    record = json.loads(options.record.read_text())
    if record["rehearsal"]:
        parser.error("a rehearsal measures nothing")
    machine = record["machine"]
    lines = rendered(choice(record["rows"]), f"{machine['device']}, {machine['date']}")
    if options.print:
        print(lines, end="")
        return 0
    text = MODULE.read_text()
    marked = re.sub(r"(?<=# rendered: begin\n).*?(?=# rendered: end)", lambda _: lines, text, flags=re.DOTALL)
    MODULE.write_text(marked)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
