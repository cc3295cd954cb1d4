"""PNG curves of what a run logged to CSV."""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from statistics import fmean, pstdev

from rich.console import Console
from rich.table import Table

Curve = dict[int, float]

_NUM_COLUMNS = 3
_SUFFIX = re.compile(r"_(step|epoch)$")


def plot(run_dirs: Sequence[str], out: str | None = None, metrics: Sequence[str] = ()) -> Path:
    """Draws losses, reward accuracies and margins, and all validation metrics; or chosen ones, and prints their means.

    Args:
        run_dirs: Folders with `metrics.csv` files of Lightning's CSVLogger, at any depth.
        out: The PNG; None means `curves.png` in the first folder.
        metrics: Patterns of names, such as `val/*/rewards/accuracies` (a `*` ends at a slash); the metrics of one
            pattern share a panel.

    Returns:
        Where it is.

    Raises:
        ValueError: If a folder has no `metrics.csv`, or no run logged one of the metrics.
    """
    runs = {
        _label(folder, run, len(run_dirs)): curves for folder in run_dirs for run, curves in read_runs(folder).items()
    }
    logged = sorted({name for curves in runs.values() for name in curves})
    if metrics:
        # the slash anchors the pattern: without it loss/total would be val/loss/total too
        panels = {glob: [name for name in logged if PurePosixPath("/", name).match(f"/{glob}")] for glob in metrics}
    else:
        panels = {name: [name] for name in sorted(filter(is_drawn, logged), key=_rank)}
    missing = [pattern for pattern, names in panels.items() if not names]
    if missing or not panels:
        what = f"nothing like {', '.join(missing)}" if missing else "no loss, reward or validation metric"
        raise ValueError(f"{', '.join(run_dirs)} logged {what}, only: {', '.join(logged) or 'nothing'}")
    path = Path(out) if out is not None else Path(run_dirs[0]) / "curves.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(runs, panels, path)
    if metrics:
        _print_means(runs, panels)
    print(f"{sum(map(len, panels.values()))} curves: {path}")
    return path


def _label(folder: str, run: str, num_folders: int) -> str:
    return run if num_folders == 1 else PurePosixPath(folder, run).as_posix()


def _print_means(runs: dict[str, dict[str, Curve]], panels: dict[str, list[str]]) -> None:
    """Over what was logged, however many steps lie between."""
    table = Table("run", "metric", "values", "mean", "standard deviation", "last")
    for names in panels.values():
        for name, (run, curves) in product(names, runs.items()):
            if values := list(curves.get(name, {}).values()):
                numbers = (f"{value:.4g}" for value in (fmean(values), pstdev(values), values[-1]))
                table.add_row(run, name, str(len(values)), *numbers)
    Console().print(table)


def read_runs(run_dir: str) -> dict[str, dict[str, Curve]]:
    """Reads a folder's curves: run -> metric -> step -> value.

    A run is a folder of `version_<n>` folders, or one without. Versions are read in their order, so where a resumed run
    repeats a step, the later value stays.

    Raises:
        ValueError: If there is no `metrics.csv`.
    """
    files = sorted(Path(run_dir).rglob("metrics.csv"), key=_version)
    if not files:
        raise ValueError(f"{run_dir} holds no metrics.csv; log with Lightning's CSVLogger")
    runs: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(dict))
    for file in files:
        folder = file.parent.parent if _version(file)[1] >= 0 else file.parent
        _read(file, runs[folder.relative_to(run_dir).as_posix()])
    return {
        run: {name: dict(sorted(curve.items())) for name, curve in curves.items()}
        for run, curves in sorted(runs.items())
    }


def is_drawn(name: str) -> bool:
    """Whether a metric belongs on the page: losses, reward accuracies and margins, anything of the validation."""
    base = _SUFFIX.sub("", name)
    return "loss" in base or base.startswith("val") or base.endswith(("rewards/accuracies", "rewards/margins"))


def _version(file: Path) -> tuple[str, int]:
    found = re.fullmatch(r"version_(\d+)", file.parent.name)
    return (str(file.parent.parent), int(found[1])) if found else (str(file.parent), -1)


def _read(file: Path, curves: dict[str, Curve]) -> None:
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            step = row.pop("step", None)
            if not step:
                continue  # a line cut by a crash
            for name, value in row.items():
                if name and value and name != "epoch":
                    curves[name][int(step)] = float(value)


def _rank(name: str) -> tuple[bool, bool, str]:
    return name.startswith("val"), "loss" not in name, name


def _draw(runs: dict[str, dict[str, Curve]], panels: dict[str, list[str]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_columns = min(_NUM_COLUMNS, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    # not pyplot: its figures are global and stay until closed
    figure = Figure(figsize=(4.5 * num_columns, 2.8 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(num_rows, num_columns, number, title=title, xlabel="step")
        drawn = [(run, name, curves[name]) for run, curves in runs.items() for name in names if curves.get(name)]
        for run, name, curve in drawn:
            label = ": ".join(([run] if len(runs) > 1 else []) + ([name] if len(names) > 1 else []))
            axes.plot(list(curve), list(curve.values()), label=label, marker="." if len(curve) < 30 else None)
        axes.grid(alpha=0.3)
        if len(drawn) > 1:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
