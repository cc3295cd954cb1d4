"""Verbosity by iteration as one PNG: the panels of ISR-DPO's Figures 4 and 5, several runs in one picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_vpo.generations import finite, load_scorer
from lit_vpo.metrics.bootstrap import Interval
from lit_vpo.metrics.verbosity import verbosity_metrics
from lit_vpo.preferences.agreement import agreement, exact_choices
from lit_vpo.preferences.verdict_rows import run_verdicts
from lit_vpo.protocols import CaptionScorer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {
    "chosen_words": "words of chosen answers",
    "length_ratio": "words of chosen / words of rejected",
    "longer_wins": "share of pairs that the longer answer wins",
    "order_consistency": "share of verdicts equal in both orders",
}


@dataclass(frozen=True)
class RunVerbosity:
    """What the verdicts of a run say; all lists have one entry for each iteration.

    Args:
        name: Of the run's folder.
        iterations: Those that were judged.
        values: Of `lit_vpo.metrics.verbosity_metrics`, by name.
        accuracy: Agreement with the exact event judge; empty without a scorer.
        judges: The different judges.
    """

    name: str
    iterations: list[int]
    values: dict[str, list[float]]
    accuracy: list[Interval]
    judges: list[Any]


def plot_verbosity(
    run_dirs: Sequence[str], out: str | None = None, scorer: str | CaptionScorer | None = None, seed: int = 0
) -> Path:
    """Draws the verbosity of runs by iteration and prints all their numbers; a .json with them goes beside the PNG.

    Args:
        run_dirs: Folders of `fit` whose resampler judges, or of staged iterations' `*.verdicts.jsonl`.
        out: The PNG; None means `verbosity.png` in the first folder.
        scorer: Caption scorer or its dotted path; adds a panel: how often the judge prefers the answer that errs less.
        seed: Of the bootstrap of its intervals.

    Returns:
        Where it is.

    Raises:
        ValueError: If a folder has no verdicts, or they cannot be read.
    """
    exact = load_scorer(scorer) if isinstance(scorer, str) else scorer
    runs = [read_verbosity(run_dir, exact, seed) for run_dir in run_dirs]
    path = Path(out) if out is not None else Path(run_dirs[0]) / "verbosity.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(path, dpi=100)
    content = {run_dir: run.__dict__ | {"accuracy": _plain(run)} for run_dir, run in zip(run_dirs, runs, strict=True)}
    path.with_suffix(".json").write_text(json.dumps(finite(content), indent=1), encoding="utf-8")
    for run in runs:
        _print(run)
    print(f"{sum(len(run.iterations) for run in runs)} iterations of {len(runs)} runs: {path}")
    return path


def read_verbosity(run_dir: str, scorer: CaptionScorer | None = None, seed: int = 0) -> RunVerbosity:
    """Reads the verdicts of a run.

    Raises:
        ValueError: As `plot_verbosity`.
    """
    iterations = run_verdicts(run_dir)
    measured = [verbosity_metrics(rows) for rows in iterations.values()]
    values = {name: [each[name] for each in measured] for name in measured[0]}
    accuracy: list[Interval] = []
    if scorer is not None:
        accuracy = [agreement(exact_choices(rows, scorer), seed).accuracy for rows in iterations.values()]
    judges = {json.dumps(row["judge"], sort_keys=True) for rows in iterations.values() for row in rows}
    return RunVerbosity(
        Path(run_dir).name, list(iterations), values, accuracy, [json.loads(each) for each in sorted(judges)]
    )


def draw(runs: Sequence[RunVerbosity]) -> "Figure":
    """The figure: a panel for each measure, a line in it for each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_panels = len(_PANELS) + any(run.accuracy for run in runs)
    # not pyplot: its figures are global and stay until closed
    figure = Figure(figsize=(4.5 * num_panels, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, num_panels, squeeze=False)[0]
    for axes, (name, title) in zip(panels, _PANELS.items(), strict=False):
        for run in runs:
            axes.plot(run.iterations, run.values[name], marker="o", label=run.name)
        _finish(axes, title)
    if any(run.accuracy for run in runs):
        _accuracies(panels[-1], runs)
    return figure


def _accuracies(axes: "Axes", runs: Sequence[RunVerbosity]) -> None:
    for run in runs:
        if run.accuracy:
            axes.plot(run.iterations, [each.estimate for each in run.accuracy], marker="o", label=run.name)
            ends = [each.low for each in run.accuracy], [each.high for each in run.accuracy]
            axes.fill_between(run.iterations, *ends, alpha=0.2)
    axes.axhline(0.5, color="grey", linewidth=0.8)  # chance
    _finish(axes, "judge prefers the answer that errs less")


def _finish(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(title=title, xlabel="iteration")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _plain(run: RunVerbosity) -> list[dict[str, Any]]:
    return [dict(each.__dict__) for each in run.accuracy]


def _print(run: RunVerbosity) -> None:
    """Iterations are columns: few and short, where the measures are many and long."""
    columns = "iteration", *map(str, run.iterations)
    table = Table(*columns, title=escape(run.name), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name, values in run.values.items():
        table.add_row(name, *(f"{value:.3g}" for value in values))
    if run.accuracy:
        table.add_row("judge accuracy", *(f"{each.estimate:.3g}" for each in run.accuracy))
    console = Console()
    console.print(table)
    for judge in run.judges:
        console.print(escape(f"judge: {json.dumps(judge, sort_keys=True)}"), soft_wrap=True)
