"""From rows to a short table: fractions of the floors, ratios between providers, goals. Plain Python, no torch."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["choice", "goals", "render", "with_fractions"]

Row = dict[str, Any]
Choice = dict[str, dict[str, list[tuple[int, str]]]]
OURS = ("triton", "cuda", "auto")  # as they serve: what has to be asked for reaches no goal
# Which matrix rate bounds an operator's row. The search multiplies digits that tf32 keeps, whatever the rows' dtype.
RATE = {"tf32": "tf32", "bfloat16": "bfloat16", "bfloat16 screen": "bfloat16"}


def with_fractions(rows: Sequence[Row]) -> list[Row]:
    """The rows, with the share of their floors that those with work and times reach."""
    rates = {row["floor"]: row["rate"] for row in rows if "floor" in row and row.get("rate")}
    return [row | _fractions(row, rates) for row in rows]


def _fractions(row: Row, rates: dict[str, float]) -> Row:
    if not (row.get("ms") and row.get("flop") and "copy" in rates):
        return {}
    fallback = "tf32" if row["op"] == "alignment_search" else "float32"
    products = rates.get(RATE.get(row["dtype"], fallback))
    by_part: Row = {"of_bytes": [], "of_gathered": [], "of_products": []}
    for ms, flop, once, gathered in zip(row["ms"], row["flop"], row["bytes"], row["gathered"], strict=True):
        by_part["of_bytes"].append(round(once / (rates["copy"] * 1e9) / (ms / 1e3), 3))
        by_part["of_gathered"].append(round(gathered / (rates["copy"] * 1e9) / (ms / 1e3), 3))
        by_part["of_products"].append(round(flop / (products * 1e12) / (ms / 1e3), 3) if products else None)
    return by_part


def goals(rows: Sequence[Row], rehearsal: bool) -> list[Row]:
    """Issue by issue what was aimed at, and what was reached; None where it was not measured."""
    timed = [] if rehearsal else [row for row in rows if row.get("ms") and row.get("status") == "ok"]

    def best(value: Callable[[Row], float], *, largest: bool = False, **wanted: Any) -> float | None:
        found = [value(row) for row in timed if all(_matches(row, k, v) for k, v in wanted.items())]
        return (max if largest else min)(found) if found else None

    def share(op: str, dtype: str, part: int, of: str, case: str = "") -> float | None:
        return best(
            lambda r: r[of][part], largest=True, op=op, dtype=dtype, provider=OURS, alone=True, case=case
        )

    def step(dtype: str, provider: Any = OURS) -> float | None:
        return best(
            lambda r: sum(r["ms"]), op="training step", dtype=dtype, provider=provider, exactly="zh_en"
        )

    def memory(provider: Any) -> float | None:
        return best(
            lambda r: r["peak_mb"], op="training step", dtype="tf32", provider=provider, has="peak_mb"
        )

    attention, fusion, large = "relation_reflection_attention", "low_rank_fusion", "larger than L2"
    table: list[tuple[str, str, float | None, float]] = []
    for part, name in enumerate(("forward", "backward")):
        value = share(attention, "float32", part, "of_gathered", large)
        table.append((f"attention {name}, share of the bytes floor, graph larger than L2", ">=", value, 0.70))
    for dtype, least in (("tf32", 0.60), ("bfloat16", 0.55)):
        for part, name in enumerate(("forward", "backward")):
            value = share(fusion, dtype, part, "of_products")
            table.append((f"fusion {name}, share of the {dtype} rate", ">=", value, least))
    search = best(lambda r: r["ms"][0] / 1e3, op="alignment_search", provider=OURS, case="70,000 pairs")
    table.append(("ranks with CSLS at 70,000 x 2,400, seconds", "<=", search, 2.0))
    table.append(("training step on zh_en in tf32, ms", "<=", step("tf32"), 8.0))
    table.append(("training step on zh_en in bfloat16, ms", "<=", step("bfloat16"), 5.0))
    table.append(
        (
            "step: times faster than the authors' formulation",
            ">=",
            _ratio(step("tf32", "authors"), step("tf32")),
            15,
        )
    )
    table.append(("step: times less memory than it", ">=", _ratio(memory("authors"), memory(OURS)), 10))
    compiled = _ratio(step("tf32", "torch.compile"), step("tf32"))
    table.append(("step: times faster than torch.compile of the clean model", ">=", compiled, 3))
    done = [row for row in rows if row.get("bytes_per_entity") and row["status"] == "ok" and not rehearsal]
    entities = max(
        (float(row["case"].split(", ")[1].split(" ")[0].replace(",", "")) for row in done), default=None
    )
    table.append(("entities of a synthetic graph that trains", ">=", entities, 4_000_000))
    return [
        {
            "goal": goal,
            "target": f"{sense} {target:,g}" if target < 1e6 else f"{sense} {target:,}",
            "measured": None if value is None else round(value, 3),
            "reached": None if value is None else (value >= target if sense == ">=" else value <= target),
        }
        for goal, sense, value, target in table
    ]


def choice(rows: Iterable[Row]) -> Choice:
    """Operator -> dtype -> (up to this width, the faster backend): the table of loginmea_fast/ops/_device_choice.py."""
    times: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in rows:
        if row["task"].startswith("choice") and row.get("ms") and row["status"] == "ok":
            # Rows are named by the precision of their products, the table by the dtype of the tensors.
            dtype = "bfloat16" if row["dtype"] == "bfloat16" else "float32"
            times.setdefault((row["op"], dtype, row["width"]), {})[row["provider"]] = sum(row["ms"])
    table: Choice = {}
    for (op, dtype, width), found in sorted(times.items()):
        if len(found) < 2:
            continue
        steps = table.setdefault(op, {}).setdefault(dtype, [])
        fastest = min(found, key=lambda backend: found[backend])
        if steps and steps[-1][1] == fastest:
            steps.pop()
        steps.append((width, fastest))
    return table


def _matches(row: Row, key: str, wanted: Any) -> bool:
    if key == "has":
        return row.get(wanted) is not None
    if key == "exactly":
        return row.get("case") == wanted
    value = row.get(key)
    if key == "case":
        return wanted in (value or "")
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def _ratio(slow: float | None, fast: float | None) -> float | None:
    return slow / fast if slow and fast else None


def render(result: Row) -> str:
    """The table: what runs printed last."""
    rows, rehearsal = result["rows"], result["rehearsal"]
    lines = ["", *_heading(rows, rehearsal), "", *_checks(rows), *_problems(result)]
    if not rehearsal:
        lines += ["", *_floors(rows), "", *_times(rows), *_choice(rows)]
    lines += ["", "goals"]
    for goal in result["goals"]:
        verdict = {None: "not measured", True: "reached", False: "missed"}[goal["reached"]]
        measured = "" if goal["measured"] is None else f"{goal['measured']:,g}"
        lines.append(f"  {goal['goal']:66}{goal['target']:>14}{measured:>12}  {verdict}")
    states = Counter(task["status"] for task in result["tasks"])
    lines += ["", f"{_told(states)} tasks in {result['seconds']:.0f} s; sources {result['sources']}"]
    return "\n".join(lines)


def _heading(rows: Sequence[Row], rehearsal: bool) -> list[str]:
    here = next((row for row in rows if "python" in row), {})
    software = f"torch {here.get('torch')}, CUDA {here.get('cuda')}, Python {here.get('python')}"
    if rehearsal:
        return [f"REHEARSAL on the CPU, {software}: nothing here was run on a GPU, and nothing was timed"]
    if "device" not in here:
        return ["no CUDA device", software]
    card = f"{here['device']}, {here['memory_gb']} GB, L2 {here['l2_mb']} MB"
    return [card, software + f", driver {here.get('driver')}"]


def _checks(rows: Iterable[Row]) -> list[str]:
    """A line an operator and backend: how many cases came out how."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for row in rows:
        part = row["task"].partition("/")[0]
        if "op" in row and part in ("correctness", "sanitizer"):
            what = row.get("tool", "checks")
            counts.setdefault((row["op"], row["backend"], what), Counter())[row["status"]] += 1
        elif "suite" in row:
            counts.setdefault((row["suite"], "both", "tests"), Counter()).update(row.get("counts", {}))
        elif "fault" in row:
            counts.setdefault(("planted faults", "cuda", "seen by"), Counter())[
                row.get("seen", row["status"])
            ] += 1
    return [
        f"  {op:32}{backend:8}{what:10}{_told(counter)}" for (op, backend, what), counter in counts.items()
    ]


def _problems(result: Row) -> list[str]:
    """The first problem of each kind, and every task that did not finish."""
    lines = []
    skipped: dict[str, list[str]] = {}
    for task in result["tasks"]:
        if task["status"] == "not run":
            skipped.setdefault(task["reason"], []).append(task["task"])
        elif task["status"] != "ok":
            lines.append(f"  {task['task']}: {task['status']}: {task.get('reason', '')}"[:200])
    for reason, names in skipped.items():
        lines += textwrap.wrap(
            f"not run: {reason}: {', '.join(names)}", 118, initial_indent="  ", subsequent_indent="    "
        )
    seen = set()
    for row in result["rows"]:
        reason = row.get("reason", "")
        key = (row["task"], row.get("status"), reason[:60])
        if row.get("status", "ok") not in ("ok", "not run") and key not in seen:
            seen.add(key)
            what = ", ".join(
                str(row[k]) for k in ("provider", "dtype", "case", "variant", "floor") if k in row
            )
            lines.append(f"  {row['task']}: {row['status']}: {what}: {reason}"[:240])
    return ["", "not as it should be", *lines[:40]] if lines else []


def _floors(rows: Iterable[Row]) -> list[str]:
    told = [f"{row['floor']} {row['rate']:,.0f} {row['unit']}" for row in rows if row.get("rate")]
    return ["floors: " + "; ".join(told)] if told else []


def _times(rows: Sequence[Row]) -> list[str]:
    """A line a provider: milliseconds, ratios to two others, shares of the floors, peak memory."""
    timed = [row for row in rows if row.get("ms") and "op" in row and not row["task"].startswith("choice")]
    wide = max((len(_named(row)) for row in timed), default=0)
    lines = [
        f"{'':{wide + 2}}{'dtype':>16}{'forward ms':>12}{'backward':>10}{'authors':>9}{'compile':>9}"
        f"{'% bytes':>12}{'% gather':>12}{'% product':>12}{'peak MB':>10}"
    ]
    heading = None
    for row in timed:
        if heading != (row["op"], row.get("case")):
            heading = (row["op"], row.get("case"))
            lines.append(f"{row['op']}: {row.get('case', '')}")
        peers = [r for r in timed if (r["op"], r.get("case")) == heading and not r.get("alone")]
        ms = [f"{t:.3f}" for t in row["ms"]] + [""]
        lines.append(
            f"  {_named(row):{wide}}{row['dtype']:>16}{ms[0]:>12}{ms[1]:>10}"
            f"{_against(row, peers, 'authors'):>9}{_against(row, peers, 'torch.compile'):>9}"
            f"{_percent(row, 'of_bytes'):>12}{_percent(row, 'of_gathered'):>12}{_percent(row, 'of_products'):>12}"
            f"{row.get('peak_mb', ''):>10}"
        )
    return lines if len(lines) > 1 else []


def _named(row: Row) -> str:
    alone = " alone" if row.get("alone") else ""
    return row["provider"] + alone + (f", {row['variant']}" if "variant" in row else "")


def _choice(rows: Sequence[Row]) -> list[str]:
    """What scripts/render_device_choice.py would make of these rows."""
    lines = []
    for op, by_dtype in choice(rows).items():
        for dtype, steps in by_dtype.items():
            told = ", ".join(f"{backend} up to {width:,} columns" for width, backend in steps)
            lines.append(f"  {op:32}{dtype:10}{told}")
    return ["", "faster of Triton and CUDA", *lines] if lines else []


def _against(row: Row, peers: Iterable[Row], provider: str) -> str:
    """How many times faster than the fastest of a provider's rows."""
    other = min((sum(r["ms"]) for r in peers if r["provider"] == provider), default=None)
    return "" if other is None or row.get("alone") else f"{other / sum(row['ms']):.1f}x"


def _percent(row: Row, key: str) -> str:
    shares = [share for share in row.get(key, ()) if share is not None]
    return " ".join(f"{100 * share:.0f}" for share in shares)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items())
