"""Loss curve and accuracy per skill of a training run, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def plot_history(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `loss.png` and `accuracy.png`."""
    _plot_losses(history, folder / "loss.png")
    _plot_accuracies([record for record in history if "accuracy" in record], folder)


def _plot_losses(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    steps = [record["step"] for record in history]
    axes.plot(steps, [record["answers"] for record in history], label="answers")
    axes.plot(steps, [record["seeing"] for record in history], label="what each visual token shows")
    axes.set(xlabel="step", ylabel="cross entropy", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _plot_accuracies(records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    skills = sorted({skill.removesuffix("+think") for r in records for skill in r["accuracy"]})
    columns = 5
    rows = -(-len(skills) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(12, 1.7 * rows), sharex=True, sharey=True, layout="constrained"
    )
    for axes, skill in zip(grid.flat, skills, strict=False):
        for name, label in ((skill, "direct"), (f"{skill}+think", "thinking")):
            points = [(r["step"], r["accuracy"][name]) for r in records if name in r["accuracy"]]
            axes.plot(*zip(*points, strict=True), label=label) if points else None
        axes.set_title(skill, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(skills) :]:
        axes.set_visible(False)
    grid.flat[0].legend(fontsize=7)
    figure.savefig(folder / "accuracy.png", dpi=90)
    plt.close(figure)
