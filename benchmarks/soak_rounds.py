"""Kill a run in rounds again and again, and look whether it ends as a run that nobody killed, bit for bit.

    python benchmarks/soak_rounds.py [--kills 10] [--seconds 300] [--seed 0]

A real run (`tests/callbacks/resampling_run.py`: three rounds of two steps, accumulation 2, merges, pairs sampled anew)
gets SIGKILL at random moments, in each phase equally often: while it trains, samples, judges, merges, and writes; which
call of the phase, and when within it, is drawn. It goes on from its last checkpoint. A run that reaches its end is
compared: the last checkpoint's tensors, ledger, optimizer and step, and every file of candidates and pairs. Then the
next one begins, until enough kills were made. Prints a table; exits with 1 where an end differs.
"""

import argparse
import contextlib
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lit_vpo.datamodules.motion_world.shards import write_world

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "callbacks" / "resampling_run.py"
PHASES = {"sample": 3, "train": 6, "judge": 2, "write": 6, "merge": 3}  # and the calls that a kill may fall into
COMPARED = ("state_dict", "lit_vpo", "optimizer_states", "lr_schedulers", "global_step")
PAUSE_S = 0.1


def start(world: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """Start the run, or go on with it, in a session of its own."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(world), str(folder), "--pause", str(PAUSE_S)],
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def phases(folder: Path) -> list[str]:
    """What the run has begun so far, in all its lives."""
    path = folder / "phases.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def live(world: Path, folder: Path, phase: str, call: int, delay: float) -> bool:
    """One life of the run: until some time after a call of a phase began; returns whether it was killed then.

    Raises:
        RuntimeError: If it failed by itself.
    """
    before, run = len(phases(folder)), start(world, folder)
    while phases(folder)[before:].count(phase) < call and run.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    if run.wait() not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the run in {folder} failed by itself, with status {run.returncode}")
    return run.returncode != 0


def end(folder: Path) -> dict[str, Any]:
    """What a finished run has come to."""
    last = torch.load(folder / "last.ckpt", weights_only=True)
    # not what a kill left of a file under its temporary name, which nobody reads
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("rounds/*/[!.]*")}
    return {name: last[name] for name in COMPARED} | {"files": files}


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def run_to_its_end(world: Path, folder: Path, draw: random.Random, made: int, wanted: Callable[[int], bool]) -> int:
    """Kill a run until it has ended, because no more kills are wanted or the call to fall into does not come any more.

    Returns:
        Kills made so far; the next one falls into the phase whose turn it is.
    """
    while True:
        phase = list(PHASES)[made % len(PHASES)]
        call = draw.randint(1, PHASES[phase]) if wanted(made) else sys.maxsize
        delay = draw.uniform(0.0, 2.5 * PAUSE_S)
        if not live(world, folder, phase, call, delay):
            return made
        made += 1
        print(f"{folder.name}  {phase:>9}  {call:7d}  {delay:7.2f}", flush=True)


def soak(kills: int, seconds: float, seed: int) -> tuple[int, bool]:
    """Kill, resume, compare; prints a line for every kill and every end.

    Returns:
        Kills that were made, and whether all ends are equal to the straight run's.
    """
    draw, made, equal = random.Random(seed), 0, list[bool]()
    begun = time.monotonic()

    def wanted(made: int) -> bool:
        return made < kills and time.monotonic() - begun < seconds

    with tempfile.TemporaryDirectory() as name:
        world, straight = Path(name) / "world", Path(name) / "straight"
        with contextlib.redirect_stdout(sys.stderr):  # its progress is no part of the table
            write_world(world, "train", 8, 0, ["pairs"], 2)
        straight.mkdir()
        live(world, straight, "train", sys.maxsize, 0.0)
        truth = end(straight)
        print("run    killed in  at call  after s")
        while wanted(made) or not equal:
            folder = Path(name) / f"run-{len(equal)}"
            folder.mkdir()
            made = run_to_its_end(world, folder, draw, made, wanted)
            equal.append(same(end(folder), truth))
            words = "equal to" if equal[-1] else "NOT EQUAL to"
            print(f"{folder.name}  its end is {words} the straight run's", flush=True)
    return made, all(equal)


def machine() -> str:
    """Where this ran."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return f"{os.cpu_count()} cores, {model.partition(':')[2].strip() or platform.processor()}"


def main() -> None:
    """Parses the options, kills, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300.0, help="no kill after that; the run then goes to its end")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    begun = time.monotonic()
    print(f"{datetime.now(UTC).date()}, commit {commit.strip()}, {machine()}; seed {args.seed}")
    made, equal = soak(args.kills, args.seconds, args.seed)
    print(f"{made} kills in {time.monotonic() - begun:.0f} s: {'all ends equal' if equal else 'NOT EQUAL'}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
