"""The words of `pairs contexts|verdicts|judged`: ISR-DPO in stages, each around a `predict`."""

import argparse
from typing import Any


def add_judging(pairs: Any) -> None:
    """Adds what a policy that judges itself needs between two runs.

    Args:
        pairs: Of the parser of `pairs`.
    """
    contexts = pairs.add_parser(
        "contexts", help="an overlay that asks for a description of each video, or a better one"
    )
    contexts.add_argument("candidates", help="of predict with --model.init_args.num_candidates 2")
    contexts.add_argument("--previous", metavar="FILE", help="of predict, for the contexts of the iteration before")
    contexts.add_argument("--prompts", metavar="YAML", help="wordings; default: the shipped ones")
    contexts.add_argument("--out", required=True)
    contexts.set_defaults(command=_contexts)
    verdicts = pairs.add_parser("verdicts", help="an overlay that asks which of two answers is better, in both orders")
    _add_judged_by(verdicts)
    verdicts.set_defaults(command=_verdicts)
    judged = pairs.add_parser("judged", help="the better answer of two against the other, where both orders agree")
    _add_judged_by(judged)
    judged.add_argument("--replies", metavar="FILE", help="of predict, for the prompts of `verdicts`")
    judged.add_argument("--judge", metavar="NAME_OR_PATH", help="in their place: random, longer, or a dotted path")
    judged.add_argument("--seed", type=int, default=0, help="of the random judge")
    judged.add_argument("--min-pairs", type=int, default=1, metavar="N", help="refuse fewer pairs")
    judged.add_argument("--max-length-ratio", type=float, metavar="X", help="leave out pairs whose winner is longer")
    judged.set_defaults(command=_judged)


def _add_judged_by(parser: Any) -> None:
    parser.add_argument("candidates", help="of predict with --model.init_args.num_candidates 2")
    parser.add_argument("--contexts", metavar="FILE", help="of predict, for the prompts of `contexts`")
    parser.add_argument("--context", default="own", choices=("own", "none", "stale", "other", "oracle"))
    parser.add_argument("--oracle", metavar="PATH", help="dotted path of a function: record to true description")
    parser.add_argument("--prompts", metavar="YAML", help="wordings; default: the shipped ones")
    parser.add_argument("--iteration", type=int, default=1)
    parser.add_argument("--out", required=True)


def _contexts(args: argparse.Namespace) -> int | None:
    from lit_vpo.judging_commands import write_context_prompts

    write_context_prompts(args.candidates, args.out, args.previous, args.prompts)
    return None


def _verdicts(args: argparse.Namespace) -> int | None:
    from lit_vpo.judging_commands import Judging, write_questions

    by = args.contexts, args.context, args.oracle, args.prompts, args.iteration
    write_questions(Judging(args.candidates, *by), args.out)
    return None


def _judged(args: argparse.Namespace) -> int | None:
    from lit_vpo.judging_commands import Judging, write_judged

    by = args.contexts, args.context, args.oracle, args.prompts, args.iteration
    guards = args.min_pairs, args.max_length_ratio
    write_judged(Judging(args.candidates, *by), args.out, args.replies, args.judge, args.seed, *guards)
    return None
