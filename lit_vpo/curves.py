"""PNG curves of what a run logged to CSV."""

import csv
import math
import re
from collections import defaultdict
from pathlib import Path

Curve = dict[int, float]

_NUM_COLUMNS = 3
_SUFFIX = re.compile(r"_(step|epoch)$")


def plot(run_dir: str, out: str | None = None) -> Path:
    """Draws losses, reward accuracies and margins, and all validation metrics.

    Args:
        run_dir: Folder with `metrics.csv` files of Lightning's CSVLogger, at any depth.
        out: The PNG; None means `<run_dir>/curves.png`.

    Returns:
        Where it is.

    Raises:
        ValueError: If there is no `metrics.csv`, or none of the metrics in it.
    """
    runs = read_runs(run_dir)
    names = sorted({name for curves in runs.values() for name in curves if is_drawn(name)}, key=_rank)
    if not names:
        logged = sorted({name for curves in runs.values() for name in curves})
        raise ValueError(
            f"{run_dir} logged no loss, reward or validation metric, only: {', '.join(logged) or 'nothing'}"
        )
    path = Path(out) if out is not None else Path(run_dir) / "curves.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(runs, names, path)
    print(f"{len(names)} curves: {path}")
    return path


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


def _draw(runs: dict[str, dict[str, Curve]], names: list[str], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = math.ceil(len(names) / _NUM_COLUMNS)
    # not pyplot: its figures are global and stay until closed
    figure = Figure(figsize=(4.5 * _NUM_COLUMNS, 2.8 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(num_rows, _NUM_COLUMNS, number, title=name, xlabel="step")
        for run, curves in runs.items():
            curve = curves.get(name, {})
            if curve:
                axes.plot(list(curve), list(curve.values()), label=run, marker="." if len(curve) < 30 else None)
        axes.grid(alpha=0.3)
        if len(runs) > 1:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
