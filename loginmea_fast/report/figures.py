"""Figures of a page as plotly.js takes them: traces and a layout, JSON-ready, and a sentence that says what is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["bars", "curve", "histogram", "lines", "measured_curve", "reliability"]

_POINTS = 400  # of a curve


def _figure(
    title: str, says: str, traces: list[dict[str, Any]], x: str, y: str, **layout: Any
) -> dict[str, Any]:
    return {
        "title": title,
        "says": says,
        "traces": traces,
        "layout": {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **layout},
    }


def reliability(
    bins: Sequence[Mapping[str, float]], error: float, links: str = "held-out links"
) -> dict[str, Any]:
    """What confidences said against what was true, as `links` tell it."""
    said = [entry["confidence"] for entry in bins]
    most = max((entry["matches"] for entry in bins), default=1.0)
    return _figure(
        "Calibration",
        f"Confidence against the share that was right, on {links}; on the diagonal both agree; the more "
        "matches, the larger the point. "
        f"Error {error:.3f}.",
        [
            {"x": [0, 1], "y": [0, 1], "mode": "lines", "name": "as said", "line": {"dash": "dot"}},
            {
                "x": said,
                "y": [entry["precision"] for entry in bins],
                "mode": "lines+markers",
                "name": links,
                "text": [f"{entry['matches']:,.0f} matches" for entry in bins],
                "marker": {"size": [4 + 14 * (entry["matches"] / most) ** 0.5 for entry in bins]},
            },
        ],
        "mean confidence",
        "share that is right",
    )


def curve(confidences: Sequence[float], threshold: float) -> dict[str, Any]:
    """Expected precision and number of matches against the threshold; confidences from high to low."""
    sums, total = [], 0.0
    for confidence in confidences:
        total += confidence
        sums.append(total)
    step = max(1, len(sums) // _POINTS)
    places = [*range(0, len(sums), step), len(sums) - 1]
    at = [confidences[place] for place in places]
    return _figure(
        "Precision against threshold",
        f"Expected precision of the matches above a threshold, and how many they are; the threshold here is "
        f"{threshold:.3f}.",
        [
            {
                "x": at,
                "y": [sums[p] / (p + 1) for p in places],
                "mode": "lines",
                "name": "expected precision",
            },
            {
                "x": at,
                "y": [p + 1 for p in places],
                "mode": "lines",
                "name": "matches",
                "yaxis": "y2",
                "line": {"dash": "dash"},
            },
            _mark(threshold),
        ],
        "threshold",
        "expected precision",
        yaxis2={
            "title": {"text": "matches"},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "rangemode": "tozero",
            "tickmode": "auto",
            "tickformat": ",d",
        },
    )


def measured_curve(entries: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Precision and recall of the matches above each of some thresholds, by links that are known."""
    return lines(
        "Precision and recall",
        "Of the matches from a confidence on, by known links.",
        "confidence from",
        "",
        {
            name: [(entry["threshold"], entry[name]) for entry in entries]
            for name in ("precision", "recall", "f1")
        },
    )


def histogram(confidences: Sequence[float], threshold: float, bins: int = 20) -> dict[str, Any]:
    """How many matches have which confidence."""
    counts = [0] * bins
    for confidence in confidences:
        counts[min(int(confidence * bins), bins - 1)] += 1
    return _figure(
        "Confidence",
        f"How many matches have which confidence; those from {threshold:.3f} on are accepted.",
        [{"x": [(n + 0.5) / bins for n in range(bins)], "y": counts, "type": "bar", "name": "matches"}],
        "confidence",
        "matches",
    )


def bars(
    title: str, says: str, labels: Sequence[str], heights: Mapping[str, Sequence[float]], y: str
) -> dict[str, Any]:
    """Groups of bars, a series a name."""
    traces = [
        {"x": list(labels), "y": list(values), "type": "bar", "name": name}
        for name, values in heights.items()
    ]
    return _figure(title, says, traces, "", y)


def lines(
    title: str, says: str, x: str, y: str, series: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[str, Any]:
    """Points joined by lines, a series a name."""
    traces = [
        {"x": [p[0] for p in points], "y": [p[1] for p in points], "mode": "lines+markers", "name": name}
        for name, points in series.items()
        if points
    ]
    return _figure(title, says, traces, x, y)


def _mark(threshold: float) -> dict[str, Any]:
    return {
        "x": [threshold, threshold],
        "y": [0, 1],
        "mode": "lines",
        "name": "threshold",
        "line": {"dash": "dot", "width": 1},
    }
