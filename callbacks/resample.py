"""New pairs at a round's end: the policy answers, a judge counts, the best and the worst answer are the pair."""

import time
from abc import abstractmethod
from collections import Counter
from typing import Any, ClassVar, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_vpo.preferences.candidates import select_pairs
from lit_vpo.preferences.judges import Judge
from lit_vpo.protocols import HasCandidates, HasRounds

from .round_sampling import RoundSampling
from .rounds import RoundCallback

Row: TypeAlias = dict[str, Any]


class Resampler(RoundCallback):
    """Base of the callbacks that make new pairs with the current policy, and let training go on with them.

    What round k is made of lies in `<default_root_dir>/rounds/k/`. A run that was killed while it sampled goes on with
    the first batch that is not there whole.

    Raises:
        ValueError: In `setup` without prompts, or where the weights are not on every rank (then sample with `predict`,
            or `pairs sample` from a server, between two runs).
    """

    advice: ClassVar[str] = "sample more prompts"  # to who has no pair

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.started = time.monotonic()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, HasCandidates):
            raise ValueError(f"{type(self).__name__} needs prompts: use RoundPreferenceDataModule with `candidates`")
        data.check_candidates()
        if type(trainer.strategy).__name__ not in ("SingleDeviceStrategy", "DDPStrategy"):
            raise ValueError(
                f"{type(self).__name__} generates inside fit, which needs all weights on every rank; with a sharded "
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
        self.resample(trainer, module, round_index)

    def resample(self, trainer: Trainer, module: LightningModule, round_index: int) -> None:
        """Make a round's pairs and train on them from the next batch on.

        Raises:
            ValueError: If no rank has a pair.
        """
        sampling = RoundSampling(trainer, module, round_index)
        pairs, dropped = self.make_pairs(sampling)
        number = torch.tensor(float(len(pairs)), device=module.device)
        if not trainer.strategy.reduce(number, reduce_op="sum"):
            reasons = dict(Counter(row["reason"] for row in dropped))
            raise ValueError(f"round {round_index} has no pair: {reasons}; {self.advice}")
        path = str(sampling.folder / "pairs.jsonl")
        path = sampling.data.write_pairs(path, pairs, trainer.global_rank, trainer.world_size)
        trainer.strategy.barrier("pairs")
        sampling.data.begin_round(path, round_index)
        self._report(sampling, len(pairs), dropped)

    @abstractmethod
    def make_pairs(self, sampling: RoundSampling) -> tuple[list[Row], list[Row]]:
        """This rank's pairs, as overlay rows, and its prompts without one: {prompt_id, key, reason}."""

    def _report(self, sampling: RoundSampling, num_pairs: int, dropped: list[Row]) -> None:
        seconds = time.monotonic() - sampling.begun
        self.seconds += seconds
        share = self.seconds / (time.monotonic() - self.started)
        values = {"pairs": num_pairs, "dropped": len(dropped), "sampling_share": share}
        values["tokens_per_second"] = sampling.tokens / seconds
        logged = {f"round/{name}": float(value) for name, value in values.items()}
        if sampling.round_index:
            sampling.module.log_dict({name: torch.tensor(value) for name, value in logged.items()})
        for logger in () if sampling.round_index else sampling.trainer.loggers:
            logger.log_metrics(logged, 0)  # before the first step Lightning would keep them until the epoch's end
        reasons = dict(Counter(row["reason"] for row in dropped))
        rank_zero_info(f"round {sampling.round_index}: {num_pairs} pairs; prompts without one: {reasons}")


class PreferenceResampler(Resampler):
    """Samples candidates from the current policy and pairs the best with the worst, by a judge that counts errors.

    Args:
        judge: Counts the candidates' errors.
        num_candidates: Answers to each prompt.
        temperature: Of the sampling.
        top_p: Of the sampling (video-SALMONN 2: 0.9).
        margin: See `lit_vpo.preferences.candidates.select_pairs`.

    Raises:
        ValueError: At construction for settings out of range; in `setup` as `Resampler`.
    """

    advice: ClassVar[str] = "lower the margin, or sample more candidates or prompts"

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

    @override
    def make_pairs(self, sampling: RoundSampling) -> tuple[list[Row], list[Row]]:
        rows = sampling.candidates(self.num_candidates, self.temperature, self.top_p)
        return select_pairs(rows, self.judge, self.margin, sampling.round_index)
