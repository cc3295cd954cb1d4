"""The words of `data select`. Nothing heavy is imported before the command runs."""

import argparse
from dataclasses import fields
from typing import Any

from lit_vpo.preferences.selection_rules import SelectionRules


def add_select(data: Any) -> None:
    """Add the command to the command line.

    Args:
        data: Subcommands of `data`.
    """
    select = data.add_parser(
        "select",
        help="videos of several different shots, and two sharp frames of each (TEMPO's selection); goes on where it "
        "was cut",
    )
    select.add_argument("dir", help="shards or loose videos, indexed")
    select.add_argument("--out", required=True, metavar="FILE", help="overlay; dropped videos go to *.dropped.jsonl")
    select.add_argument(
        "--vision",
        metavar="MODEL",
        help="needed: encoder by which shots are compared: a SigLIP, CLIP or DINOv2 folder, or a policy, whose own "
        "tower it is then (such as motion_world_base, with --merge-above of its own)",
    )
    select.add_argument("--transnet", metavar="FILE", help="weights of TransNetV2; default: PySceneDetect finds shots")
    select.add_argument(
        "--threshold",
        type=float,
        help="of the shot detector: least change at a cut, 15 by default, or TransNetV2's probability, 0.5 by default",
    )
    select.add_argument("--num-workers", type=int, default=0)
    select.add_argument("--device", default="cpu", help="where the encoder runs")
    for rule in fields(SelectionRules):
        option = "--" + rule.name.replace("_", "-")
        meaning = f"{rule.metadata['help']}; default {rule.default}".replace("%", "%%")
        select.add_argument(option, type=type(rule.default), default=rule.default, help=meaning)
    select.set_defaults(command=_select)


def _select(args: argparse.Namespace) -> int | None:
    from lit_vpo.video_selection import select_videos

    if args.vision is None:
        raise ValueError(
            "--vision names the encoder by which shots are compared: a folder of SigLIP, CLIP or DINOv2, or a policy, "
            "whose own tower it is then (such as motion_world_base)"
        )
    rules = SelectionRules(**{rule.name: getattr(args, rule.name) for rule in fields(SelectionRules)})
    select_videos(args.dir, args.out, args.vision, rules, args.threshold, args.transnet, args.num_workers, args.device)
    return None
