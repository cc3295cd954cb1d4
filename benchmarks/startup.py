"""How fast the door opens: seconds until `--version` and `--help` have answered.

    python benchmarks/startup.py [--repeats 5] [--json]

Wall-clock time of a fresh process, median over repeats with minimum and maximum. Wanted: 0.5 s and 6 s.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

WORDS = ("--version", "--help", "fit --help")


def measure(words: str, repeats: int) -> dict[str, float]:
    """Seconds of `python -m lit_vpo WORDS`; the first, which may read from a cold disk, does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lit_vpo", *words.split()], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return {"median": statistics.median(seconds[1:]), "min": min(seconds[1:]), "max": max(seconds[1:])}


def main() -> None:
    """Parses the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = {words: measure(words, args.repeats) for words in WORDS}
    if args.json:
        print(json.dumps(results))
        return
    for words, seconds in results.items():
        print(f"{words:12s} {seconds['median']:.2f} s ({seconds['min']:.2f} to {seconds['max']:.2f})")


if __name__ == "__main__":
    main()
