"""The picture of a soak: memory, descriptors and threads against the requests answered."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.html_page import COLORS, FAINT, figure_style
from benchmarks.soak.sample import ProcessUse, Sample

_MIB = 1024**2
_PANELS: Sequence[tuple[str, Callable[[ProcessUse], float]]] = (
    ("own memory (USS), MiB", lambda use: use.uss_bytes / _MIB),
    ("open files", lambda use: use.num_fds),
    ("threads", lambda use: use.num_threads),
)


def draw(samples: Sequence[Sample], warm_up_requests: int, path: Path) -> None:
    """An SVG file; the warm-up is shaded."""
    with figure_style():
        figure = Figure(figsize=(8, 9))
        panels = figure.subplots(len(_PANELS) + 1, 1, sharex=True, height_ratios=(3, 2, 2, 2))
        for axes, (label, measure) in zip(panels, _PANELS, strict=False):
            _draw_roles(axes, samples, measure)
            axes.set_ylabel(label)
        _draw_tiers(panels[-1], samples)
        for axes in panels:
            axes.axvspan(0, warm_up_requests, color=FAINT, alpha=0.4, linewidth=0)
            axes.set_ylim(bottom=0)
        panels[-1].set_xlabel("requests that have ended; shaded: warm-up")
        panels[0].legend(loc="lower right", fontsize=8)
        panels[-1].legend(loc="lower right", fontsize=8)
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _draw_roles(
    axes: Axes, samples: Sequence[Sample], measure: Callable[[ProcessUse], float]
) -> None:
    roles = sorted({role for sample in samples for role in sample.uses})
    for role, color in zip(roles, COLORS, strict=False):
        own = [sample for sample in samples if role in sample.uses]
        axes.plot(
            [sample.num_requests for sample in own],
            [measure(sample.uses[role]) for sample in own],
            color=color,
            linewidth=1.2,
            label=role,
        )


def _draw_tiers(axes: Axes, samples: Sequence[Sample]) -> None:
    requests = [sample.num_requests for sample in samples]
    for name, color in zip(sorted(samples[0].tier_bytes), COLORS, strict=False):
        sizes = [sample.tier_bytes[name] / _MIB for sample in samples]
        axes.plot(requests, sizes, color=color, linewidth=1.2, label=f"cache on {name}")
    axes.set_ylabel("cache, MiB")
