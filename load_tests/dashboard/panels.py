"""Grafana's dashboard drawn by matplotlib: each panel's own queries, asked of a running Prometheus.

Places, titles, queries and legends are the dashboard's. Colours and fonts are not Grafana's, which need not be installed.
"""

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Panel = Mapping[str, Any]
# A panel's unit: (factor, what the axis says).
UNITS = {"s": (1000, "ms"), "reqps": (1, "requests/s"), "ops": (1, "per second"), "percentunit": (100, "%"), "none": (1, "")}


@dataclass(frozen=True)
class Window:
    """The time that is shown, in seconds since 1970, and the address of the Prometheus that is asked."""

    url: str
    start: float
    end: float

    def ask(self, expression: str) -> list[Mapping[str, Any]]:
        """One series for each set of labels, a value a second. Grafana's variables stand for all models and 10 s."""
        replaced = {"$__rate_interval": "10s", "$__range": f"{self.end - self.start:.0f}s", "$model": ".*"}
        query = re.sub("|".join(map(re.escape, replaced)), lambda match: replaced[match[0]], expression)
        asked = urllib.parse.urlencode({"query": query, "start": self.start, "end": self.end, "step": 1})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{asked}", timeout=30) as answer:
            return list(json.load(answer)["data"]["result"])


def draw_dashboard(dashboard: Mapping[str, Any], window: Window, path: Path, *, title: str) -> None:
    """Writes the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = pyplot.figure(figsize=(18, 0.42 * rows))
    figure.suptitle(title, fontsize=11, y=0.995)
    grid = figure.add_gridspec(rows, 24, left=0.03, right=0.99, top=0.965, bottom=0.02, wspace=6, hspace=1.6)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        last = place["y"] + place["h"] - (1 if panel["type"] == "timeseries" else 0)  # room for the legend below
        axes = figure.add_subplot(grid[place["y"] : last, place["x"] : place["x"] + place["w"]])
        {"row": draw_row, "stat": draw_stat, "timeseries": draw_lines}[panel["type"]](axes, panel, window)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def draw_row(axes: Any, panel: Panel, window: Window) -> None:
    """A heading."""
    axes.axis("off")
    axes.text(0, 0, panel["title"], fontsize=12, fontweight="bold", transform=axes.transAxes)


def draw_stat(axes: Any, panel: Panel, window: Window) -> None:
    """The last value; for a panel whose legend names something, the names."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(panel["title"], fontsize=9, loc="left")
    (target,) = panel["targets"]
    found = window.ask(target["expr"])
    named = bool(target["legendFormat"])
    says = [legend(target, series) if named else f"{float(series['values'][-1][1]):.0f}" for series in found]
    wrapped = "\n".join(says).replace(", ", ",\n") if named else "\n".join(says)
    axes.text(0.5, 0.5, wrapped or "no data", fontsize=8 if named else 20, ha="center", va="center", transform=axes.transAxes)


def draw_lines(axes: Any, panel: Panel, window: Window) -> None:
    """Every series over time, stacked where the panel says so."""
    defaults = panel["fieldConfig"]["defaults"]
    factor, unit = UNITS[defaults["unit"]]
    below: dict[float, float] = {}
    for target in panel["targets"]:
        for series in window.ask(target["expr"]):
            points = [(float(at), factor * float(value)) for at, value in series["values"] if math.isfinite(float(value))]
            times = [at - window.start for at, _ in points]
            if "stacking" in defaults["custom"]:
                floor = [below.get(at, 0.0) for at, _ in points]
                below |= {at: below.get(at, 0.0) + value for at, value in points}
                axes.fill_between(times, floor, [below[at] for at, _ in points], alpha=0.6, label=legend(target, series))
            else:
                axes.plot(times, [value for _, value in points], linewidth=1.2, label=legend(target, series))
    axes.set_title(panel["title"] + (f", {unit}" if unit else ""), fontsize=9, loc="left")
    axes.set_xlim(0, window.end - window.start)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1))
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, linewidth=0.3)
    if axes.get_legend_handles_labels()[1]:  # a panel without data has no legend
        columns = 2 if panel["gridPos"]["w"] < 8 else 4
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=columns, frameon=False)


def legend(target: Mapping[str, str], series: Mapping[str, Any]) -> str:
    """Grafana's `{{label}}` filled in."""
    return re.sub(r"\{\{(\w+)}}", lambda match: series["metric"].get(match[1], ""), target["legendFormat"])
