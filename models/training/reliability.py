"""The reliability diagram of a calibration; it needs matplotlib."""

import io
from pathlib import Path

from models.training.calibration import Calibration
from models.training.card import DIAGRAM
from models.training.evaluation import BINS, Reliability


def draw(folder: Path, calibration: Calibration) -> Path:
    """Writes `DIAGRAM` into the folder: accuracy against confidence of each set, before in grey and after in blue. The larger a
    dot, the more texts it stands for; a dot below the diagonal was too sure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    sets = list(calibration.before)
    figure, row = pyplot.subplots(1, len(sets), figsize=(2.6 * len(sets), 3.3), layout="constrained", sharey=True, squeeze=False)
    for axes, name in zip(row[0], sets, strict=True):
        before, after = calibration.before[name], calibration.after[name]
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
        for each, colour, when in ((before, "0.65", "before"), (after, "tab:blue", "after")):
            found = each.counts_B > 0
            sure, right = each.confidences_B[found], each.accuracies_B[found]
            axes.plot(sure, right, color=colour, linewidth=1, label=when)
            axes.scatter(sure, right, s=areas(each), color=colour, clip_on=False)
        axes.set_title(f"{name}\nECE {100 * before.error:.1f} → {100 * after.error:.1f}", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", aspect="equal")
    row[0][0].set_ylabel("accuracy")
    row[0][0].legend(fontsize=8, loc="upper left")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    pyplot.close(figure)
    Image.open(drawn).convert("RGB").quantize(32).save(folder / DIAGRAM, optimize=True)  # a quarter of the size
    return folder / DIAGRAM


def areas(each: Reliability) -> list[float]:
    """Of each dot, in points squared: 1 in `BINS` of the texts has 20."""
    found = each.counts_B[each.counts_B > 0]
    return [20 * BINS * count / found.sum() for count in found.tolist()]
