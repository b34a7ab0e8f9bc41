"""The results as a page of markdown, caveats first."""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.outcome import AIM_HEADERS, Outcome, aim_cells, count_met

TITLE = "Ours against stock vLLM"
CAVEATS = (
    "Tiny models with random weights on a few cores of a shared machine, where HTTP and decoding "
    "of images compete with the model; no GPU. Only the ratios mean something: how many times "
    "better ours is.",
    "Stock has the flags that make it fastest here (--enforce-eager --skip-mm-profiling, a thread "
    "on each core that sleeps while it waits), except in startup-default, where it has none.",
    "text has a model so small that most of the time is what a server adds to it. With a large "
    "model both spend theirs in the same kernels, and the ratios come closer to 1.",
    "An aim of text is met when the upper end of the 95 % interval of the ratio reaches 1, which "
    "means no more than that noise hides any difference.",
    "Starts are of a tiny model with its files in the page cache and, in startup-default, with "
    "stock's compiled graphs in its cache on disk; a real checkpoint adds its loading to both.",
    "Memory is PSS (shared pages count once) of all processes, 1 GiB of KV cache on either side, "
    "sampled every few seconds: what lasts for less can be missed.",
    "Benchmarks may have been measured at different times: each says when, and at which commit.",
)
COMMANDS = (
    "make bench-stock",
    ".venv/bin/python -m benchmarks.stock --stock-python .venv-stock/bin/python --only reuse text",
)


def render_readme(outcomes: Mapping[str, Outcome]) -> str:
    caveats = (f"- {caveat}" for caveat in CAVEATS)
    commands = (f"    {command}" for command in COMMANDS)
    parts = [
        f"# {TITLE}",
        "\n".join(caveats),
        "What is measured, and how: [benchmarks](../README.md). All of it again, or some of it:",
        "\n".join(commands),
        f"## Aims: {count_met(outcomes)}",
        _table(AIM_HEADERS, aim_cells(outcomes)),
        *(part for name, outcome in outcomes.items() for part in _section(name, outcome)),
    ]
    return "\n\n".join(parts) + "\n"


def _section(name: str, outcome: Outcome) -> Iterator[str]:
    yield f"## {name}"
    yield f"{outcome.conditions}."
    yield f"    {outcome.command}"
    yield from (f"Warning: {warning}" for warning in outcome.warnings)
    yield _table(outcome.headers, outcome.cells)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
