"""Figures as a picture: what the page draws by its script, drawn by matplotlib into one file."""

from __future__ import annotations

import importlib.util
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.files import write_whole

__all__ = ["SUFFIXES", "check_plot", "draw"]

SUFFIXES = (".svg", ".png", ".pdf")
_STYLES = {"dot": ":", "dash": "--"}  # plotly's name of a line -> matplotlib's
_WIDTH, _HEIGHT = 5.0, 3.6  # inches of one figure
_LONG = 12  # labels of bars that are longer than this lie aslant


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raise `ConfigError` where `draw` would, before anything is computed.

    Raises:
        ConfigError: a name that ends in no format, no such directory, or matplotlib is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a plot ends in {', '.join(SUFFIXES)}; got {path.name}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is no directory; make it, or choose another place for {path.name}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("a plot needs matplotlib: pip install 'loginmea-fast[plot]'")


def draw(figures: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], columns: int = 2) -> Path:
    """Draw figures, as `loginmea_fast.report.figures` makes them, side by side.

    The same figures give the same file again, byte for byte.

    Args:
        figures: at least one.
        path: an SVG, PNG or PDF, written whole or not at all.
        columns: figures in a row.

    Raises:
        ConfigError: as `check_plot`, or there is nothing to draw.
        DataError: the file cannot be written.
    """
    check_plot(path)
    if not figures:
        raise ConfigError("there is nothing to draw yet")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    columns = min(columns, len(figures))
    rows = math.ceil(len(figures) / columns)
    settings: Any = {"svg.hashsalt": "loginmea_fast", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        picture = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
        FigureCanvasAgg(picture)
        for number, figure in enumerate(figures):
            _draw(figure, picture.add_subplot(rows, columns, number + 1))
        stamp = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        try:
            drawn, suffix = io.BytesIO(), target.suffix.lower()
            picture.savefig(drawn, dpi=150, metadata=stamp.get(suffix), format=suffix.removeprefix("."))
            write_whole(target, drawn.getvalue())
        except OSError as error:
            raise DataError(f"{target} cannot be written ({error.strerror or error})") from None
    return target


def _draw(figure: Mapping[str, Any], axes: Any) -> None:
    layout, traces = figure["layout"], figure["traces"]
    second: Any = None
    if any(trace.get("yaxis") == "y2" for trace in traces):
        second = axes.twinx()
        second.set_ylabel(layout["yaxis2"]["title"]["text"])
    bars = [trace for trace in traces if trace.get("type") == "bar"]
    colors = iter(f"C{number}" for number in range(len(traces)))
    for trace in traces:
        own = second if trace.get("yaxis") == "y2" else axes
        color = next(colors)
        if trace in bars:
            _bars(trace, bars.index(trace), len(bars), axes, color)
            continue
        line = trace.get("line", {})
        own.plot(
            trace["x"],
            trace["y"],
            _STYLES.get(line.get("dash", ""), "-"),
            linewidth=line.get("width", 1.5),
            marker="o" if "markers" in trace["mode"] and "marker" not in trace else "",
            markersize=3,
            color=color,
            label=trace["name"],
        )
        if "marker" in trace:  # sizes are diameters there, areas here
            own.scatter(
                trace["x"], trace["y"], [size**2 / 2 for size in trace["marker"]["size"]], color=color
            )
    axes.set_title(figure["title"])
    axes.set_xlabel(layout["xaxis"]["title"]["text"])
    axes.set_ylabel(layout["yaxis"]["title"]["text"])
    axes.grid(alpha=0.25)
    if len(traces) > 1:
        handles, labels = axes.get_legend_handles_labels()
        if second is not None:
            more, names = second.get_legend_handles_labels()
            handles, labels = [*handles, *more], [*labels, *names]
        axes.legend(handles, labels, fontsize=7)


def _bars(trace: Mapping[str, Any], number: int, count: int, axes: Any, color: str) -> None:
    labels, named = trace["x"], isinstance(trace["x"][0], str)
    step = 1.0 if named or len(labels) < 2 else labels[1] - labels[0]
    width = 0.85 * step / count
    places = [
        (place if named else label) + (number - (count - 1) / 2) * width for place, label in enumerate(labels)
    ]
    axes.bar(places, trace["y"], width, color=color, label=trace["name"])
    if named:
        axes.set_xticks(range(len(labels)), labels)
        if any(len(label) > _LONG for label in labels):
            axes.tick_params("x", rotation=30)
