"""New pairs at a round's end: the policy answers, a judge counts, the best and the worst answer are the pair."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from typing_extensions import override

from lit_vpo.atomic import append_line, read_whole_lines, write_lines
from lit_vpo.preferences.candidates import select_pairs
from lit_vpo.preferences.judges import Judge
from lit_vpo.protocols import HasCandidates, HasRounds

from .rounds import RoundCallback


class PreferenceResampler(RoundCallback):
    """Samples candidates from the current policy, selects pairs, and lets training go on with them.

    Candidates and pairs of round k lie in `<default_root_dir>/rounds/k/`. A run that was killed while it sampled goes
    on with the first batch that is not there whole.

    Args:
        judge: Counts the candidates' errors.
        num_candidates: Answers to each prompt.
        temperature: Of the sampling.
        top_p: Of the sampling (video-SALMONN 2: 0.9).
        margin: See `lit_vpo.preferences.candidates.select_pairs`.

    Raises:
        ValueError: At construction for settings out of range; in `setup` without prompts, or where the weights are not
            on every rank (then sample with `predict`, or `pairs sample` from a server, between two runs).
    """

    def __init__(
        self,
        judge: Judge,
        num_candidates: int = 2,
        temperature: float = 1.0,
        top_p: float = 0.9,
        margin: float = 0.05,
    ) -> None:
        super().__init__()
        if num_candidates < 2 or not temperature > 0 or not 0 < top_p <= 1 or not margin >= 0:
            raise ValueError(
                f"PreferenceResampler needs num_candidates >= 2, temperature > 0, top_p in (0, 1] and margin >= 0, got "
                f"{num_candidates}, {temperature}, {top_p} and {margin}"
            )
        self.judge, self.num_candidates, self.margin = judge, num_candidates, margin
        self.temperature, self.top_p = temperature, top_p
        self.seconds = 0.0
        self.started = time.monotonic()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, HasCandidates):
            raise ValueError("PreferenceResampler needs prompts: use RoundPreferenceDataModule with `candidates`")
        data.check_candidates()
        if type(trainer.strategy).__name__ not in ("SingleDeviceStrategy", "DDPStrategy"):
            raise ValueError(
                "PreferenceResampler generates inside fit, which needs all weights on every rank; with a sharded "
                "strategy train one round per run and sample between them with `predict` (num_candidates), or with "
                "`pairs sample` from a server of the exported policy"
            )

    @override
    def plan(self, module: HasRounds) -> None:
        module.plan_boundary()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    @override
    def on_round_end(self, trainer: Trainer, module: LightningModule, round_index: int) -> None:
        if trainer.global_step >= trainer.max_steps > 0:
            return  # nobody would train on them
        begun = time.monotonic()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir) / "rounds" / str(round_index)
        rows, tokens = self._sample(trainer, module, data, folder, round_index)
        pairs, dropped = select_pairs(rows, self.judge, self.margin, round_index)
        if not pairs:
            reasons = dict(Counter(row["reason"] for row in dropped))
            raise ValueError(
                f"round {round_index} has no pair: {reasons}; lower the margin, or sample more candidates or prompts"
            )
        path = data.write_pairs(str(folder / "pairs.jsonl"), pairs, trainer.global_rank, trainer.world_size)
        trainer.strategy.barrier("pairs")
        data.begin_round(path, round_index)
        self._report(module, round_index, len(pairs), dropped, tokens, time.monotonic() - begun)

    def _sample(
        self, trainer: Trainer, module: Any, data: HasCandidates, folder: Path, round_index: int
    ) -> tuple[list[dict[str, Any]], int]:
        """All candidates of this rank, those of an earlier life of the run among them; and how many tokens are new."""
        path = folder / f"candidates.{trainer.global_rank}-{trainer.world_size}.jsonl"
        known = map(json.loads, read_whole_lines(path))
        rows = [row for row in known if row["model"] == module.policy_identity]
        write_lines(path, map(json.dumps, rows))
        done = {row["prompt_id"] for row in rows}
        loader = data.candidate_loader(round_index, done, trainer.global_rank, trainer.world_size)
        tokens, tokenizer = 0, module.processor.tokenizer
        for batch in track(loader, f"round {round_index}: candidates", disable=trainer.global_rank > 0):
            batch = module.transfer_batch_to_device(batch, module.device, 0)
            new = module.candidates(batch, self.num_candidates, self.temperature, self.top_p)
            rows += new
            append_line(path, "\n".join(map(json.dumps, new)))
            tokens += sum(map(len, tokenizer([row["response"] for row in new])["input_ids"]))
        return rows, tokens

    def _report(
        self, module: LightningModule, round_index: int, num_pairs: int, dropped: list[Any], tokens: int, seconds: float
    ) -> None:
        self.seconds += seconds
        share = self.seconds / (time.monotonic() - self.started)
        values = {"pairs": num_pairs, "dropped": len(dropped), "sampling_share": share}
        values["tokens_per_second"] = tokens / seconds
        module.log_dict({f"round/{name}": torch.tensor(float(value)) for name, value in values.items()})
        reasons = dict(Counter(row["reason"] for row in dropped))
        rank_zero_info(f"round {round_index}: {num_pairs} pairs; prompts without one: {reasons}")
