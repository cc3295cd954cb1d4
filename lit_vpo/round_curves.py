"""Event errors of a run's rounds as one PNG: stacked by kind after every round, and against KL from the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_vpo.curves import Curve, read_runs
from lit_vpo.schedules import RoundPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("missed", "incorrect", "hallucinated")
_ERROR, _KL = "val/captions/event_error/", "val/base_kl"  # of the callbacks CaptionScores and BaseKL


@dataclass(frozen=True)
class RunErrors:
    """What the validations of a run measured; all lists have one entry for each of them.

    Args:
        name: Of the run's folder.
        rounds: Rounds that had ended, whole where a validation came at a round's end; 0 is the base.
        errors: Errors per event, by kind.
        kl: Nats per caption from the base; empty if the run did not measure it.
    """

    name: str
    rounds: list[float]
    errors: dict[str, list[float]]
    kl: list[float]

    @property
    def totals(self) -> list[float]:
        """Errors of all kinds together."""
        return [sum(kinds) for kinds in zip(*self.errors.values(), strict=True)]


def plot_rounds(run_dirs: Sequence[str], out: str | None = None, base: str | None = None) -> Path:
    """Draws a row of panels for each run: event errors by round, and in total against KL(policy || base).

    Args:
        run_dirs: Folders of `fit` in rounds, with the callbacks `CaptionScores` and (for the second panel) `BaseKL`.
        out: The PNG; None means `rounds.png` in the first folder.
        base: Folder of a `validate` of the base with the same callbacks: the point before the first round.

    Returns:
        Where it is.

    Raises:
        ValueError: If a folder is none of a run in rounds, or has no event errors.
    """
    runs = [read_errors(run_dir, base) for run_dir in run_dirs]
    path = Path(out) if out is not None else Path(run_dirs[0]) / "rounds.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(path, dpi=100)
    print(f"{sum(len(run.rounds) for run in runs)} validations of {len(runs)} runs: {path}")
    return path


def read_errors(run_dir: str, base: str | None = None) -> RunErrors:
    """Reads the validations of a run, the base's before them.

    Raises:
        ValueError: As `plot_rounds`.
    """
    rounds = _rounds(Path(run_dir))
    # Lightning numbers steps from 0: what was logged at step 39 was measured after 40
    found = {rounds.done(step + 1): values for step, values in _validations(run_dir).items()}
    if base is not None:
        found = {0.0: list(_validations(base).values())[-1], **found}
    errors = {kind: [values[_ERROR + kind] for values in found.values()] for kind in KINDS}
    measured = all(_KL in values for values in found.values())
    kl = [values[_KL] for values in found.values()] if measured else []
    return RunErrors(Path(run_dir).name, list(found), errors, kl)


def _rounds(run_dir: Path) -> RoundPlan:
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run_dir} has no config.yaml; give the --run_dir of a `fit`")
    steps = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"].get("round_steps")
    if not steps:
        raise ValueError(f"{run_dir} trained without rounds (model.round_steps); its curves: python -m lit_vpo curves")
    return RoundPlan.of(steps)


def _validations(run_dir: str) -> dict[int, dict[str, float]]:
    """Step -> metric -> value, of the steps that have event errors of all kinds."""
    curves: dict[str, Curve] = {name: curve for run in read_runs(run_dir).values() for name, curve in run.items()}
    steps = set.intersection(*(set(curves.get(_ERROR + kind, {})) for kind in KINDS))
    if not steps:
        raise ValueError(f"{run_dir} logged no {_ERROR}*: add the CaptionScores callback and data.val_prompts")
    return {step: {name: curve[step] for name, curve in curves.items() if step in curve} for step in sorted(steps)}


def draw(runs: Sequence[RunErrors]) -> "Figure":
    """The figure: a row for each run, the second panel only if one of them measured its distance from the base."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_columns = 2 if any(run.kl for run in runs) else 1
    # not pyplot: its figures are global and stay until closed
    figure = Figure(figsize=(5.5 * num_columns, 3.6 * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(runs), num_columns, squeeze=False, sharey=True)
    for run, row in zip(runs, panels, strict=True):
        _bars(row[0], run)
        if run.kl:
            _against_kl(row[1], run)
    return figure


def _bars(axes: "Axes", run: RunErrors) -> None:
    gaps = [after - before for before, after in zip(run.rounds, run.rounds[1:], strict=False)]
    bottom = [0.0] * len(run.rounds)
    for kind, heights in run.errors.items():
        axes.bar(run.rounds, heights, 0.8 * min(gaps, default=1.0), bottom, label=kind)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set(title=run.name, xlabel="rounds (0: the base)", ylabel="errors per event")
    axes.legend(fontsize="small")


def _against_kl(axes: "Axes", run: RunErrors) -> None:
    axes.plot(run.kl, run.totals, marker="o")
    for number, *point in zip(run.rounds, run.kl, run.totals, strict=True):
        place: Any = tuple(point)
        axes.annotate(f"{number:g}", place, xytext=(4, 4), textcoords="offset points", fontsize="small")
    axes.set(title=run.name, xlabel="KL(policy || base), nats per caption", ylabel="errors per event, total")
    axes.grid(alpha=0.3)
