"""A benchmark's results as pictures; none where matplotlib is not installed."""

from pathlib import Path
from typing import Any

from load_tests.bench.results import Results, ServerResult


def save_plots(results: Results, path: Path) -> list[Path]:
    """`path`.png with bars of texts/s, and `path`-latency.png where open loops were measured. Those that were written."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for suffix, draw, wanted in (
        ("", draw_throughput, any(server.loads for server in results.servers)),
        ("-latency", draw_latency, any(server.open_loads for server in results.servers)),
    ):
        if not wanted:
            continue
        figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
        draw(axes, results)
        axes.set_title(f"{results.machine.get('accelerator', results.machine['cpu'])}, {results.machine['cores']} cores")
        written.append(path.with_name(f"{path.name}{suffix}.png"))
        figure.savefig(written[-1], dpi=120)
        pyplot.close(figure)
    return written


def draw_throughput(axes: Any, results: Results) -> None:
    """Bars of texts/s by server and load; the bare forward as lines."""
    servers = [server for server in results.servers if server.loads]
    loads = [(measured.connections, measured.texts_per_request) for measured in servers[0].loads]
    width = 0.85 / len(servers)
    for place, server in enumerate(servers):
        found = [server.load(connections=connections, texts_per_request=size) for connections, size in loads]
        heights = [report.texts_per_s if report else 0.0 for report in found]
        bars = axes.bar([x + place * width for x in range(len(loads))], heights, width, label=server.name)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    for number, forward in enumerate(results.forwards):
        axes.axhline(forward.texts_per_s, color="grey", linewidth=0.8, linestyle=("--", ":", "-.")[number % 3],
                     label=f"bare packed forward, {forward.name}")  # fmt: skip
    axes.set_xticks([x + width * (len(servers) - 1) / 2 for x in range(len(loads))], [load_name(*load) for load in loads])
    axes.set_ylabel("texts/s")
    axes.legend(fontsize=8, loc="upper left")


def draw_latency(axes: Any, results: Results) -> None:
    """For each server p50 and p99 over the rate of arrival."""
    for number, server in enumerate(server for server in results.servers if server.open_loads):
        for share, style in (("p50_ms", "-"), ("p99_ms", "--")):
            rates, latencies_ms = latency_line(server, share)
            axes.plot(rates, latencies_ms, style, color=f"C{number}", marker="o", markersize=3,
                      label=f"{server.name}, {share.removesuffix('_ms')}")  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("offered requests/s")
    axes.set_ylabel("latency, ms")
    axes.grid(visible=True, which="both", linewidth=0.3)
    axes.legend(fontsize=8)


def latency_line(server: ServerResult, share: str) -> tuple[list[float], list[float]]:
    """Rates, and a percentile at each."""
    points = [(found.rate, getattr(found.report, share)) for found in server.open_loads if found.rate is not None]
    return [rate for rate, _ in points], [latency_ms for _, latency_ms in points]


def load_name(connections: int, texts_per_request: int) -> str:
    """As under a plot's bars."""
    size = "single texts" if texts_per_request == 1 else f"{texts_per_request} texts a request"
    return f"{connections} connection{'s' if connections > 1 else ''},\n{size}"
