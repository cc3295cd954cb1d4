"""How fast MotionWorld makes clips: rendering, H.264 and AAC encoding included, on one core.

    python benchmarks/motion_world.py [--clips 200] [--repeats 5] [--json]

Clips of 8 s, 64 x 64, 8 fps. Quotes the median over repeats of clips per minute and core, with minimum and maximum.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time

from lit_vpo.datamodules.motion_world.render import encode
from lit_vpo.datamodules.motion_world.scene import sample_scene


def measure(num_clips: int, repeats: int) -> dict[str, float]:
    """Clips per minute of process time, so that other work on the machine does not count."""
    scenes = [dataclasses.replace(sample_scene("train", 0, i), duration_s=8.0) for i in range(num_clips)]
    encode(scenes[0])
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        for scene in scenes:
            encode(scene)
        rates.append(60 * num_clips / (time.process_time() - start))
    return {"clips_per_minute_and_core": statistics.median(rates), "min": min(rates), "max": max(rates)}


def main() -> None:
    """Parses the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    result = measure(args.clips, args.repeats)
    print(json.dumps(result) if args.json else "\n".join(f"{name}: {value:,.0f}" for name, value in result.items()))


if __name__ == "__main__":
    main()
