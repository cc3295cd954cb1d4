"""LightningCLI with this project's conventions: one `run_dir`, explicit resumption, no configuration lost."""

import csv
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from typing_extensions import override

# the packages are imported so that their classes can be named in YAML without a path
import lit_vpo.callbacks
import lit_vpo.datamodules
import lit_vpo.losses
import lit_vpo.modules
from lit_vpo.checkpoint_io import AtomicCheckpointIO
from lit_vpo.modules.start import arguments_of

Tracking = Literal["csv", "wandb", "wandb_offline"]


def run(args: Sequence[str]) -> None:
    """Runs `fit`, `validate`, `test` or `predict` with the given words."""
    VPOCLI(
        lit_vpo.modules.TrainablesModule,
        None,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,  # they would be bound before configure_model (Lightning issue 19110)
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs={"parser_mode": "yaml"},
        # None means the same words, without Lightning's warning about giving both
        args=None if list(args) == sys.argv[1:] else list(args),
    )


class VPOCLI(LightningCLI):
    """Owns what belongs to a run rather than to the model or the data.

    `run_dir` is where the logs, the checkpoints and `config.yaml` go. `tracking` chooses the loggers: `csv` alone, or
    W&B beside it (`wandb_offline` needs no account; keys come from the environment only).
    """

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str, default="runs/default", help="Folder of logs, checkpoints and config."
        )
        parser.add_argument("--tracking", type=Tracking, default="csv", help="Where metrics go; csv is always written.")
        parser.add_argument("--project", type=str, default="lit_vpo", help="The W&B project.")
        parser.add_lightning_class_args(lit_vpo.callbacks.MemoryReport, "memory_report")
        parser.link_arguments("model.init_args.model", "data.init_args.model")

    @override
    def before_instantiate_classes(self) -> None:
        if self.subcommand != "fit":
            return
        path, run_dir = self._get(self.config, "ckpt_path"), Path(self._get(self.config, "run_dir"))
        if path is None:
            _refuse_second_run(run_dir)
        elif path == "last":
            _refuse_silent_restart(run_dir)
        else:
            self._refuse_other_settings(path)

    @override
    def after_instantiate_classes(self) -> None:
        # objects that `save_hyperparameters` leaves out, as the plain configuration that made them: what a checkpoint
        # must say about itself for `_refuse_other_settings`
        asked = self._get(self.config, "model").init_args.as_dict()
        self.model.hparams.update({name: asked[name] for name in ("optimizer", "lora", "loss") if name in asked})

    @override
    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would let a checkpoint's hyperparameters override the rest silently (PR 21455)."""

    def _refuse_other_settings(self, path: str) -> None:
        """Resuming from a file with other settings than it was trained with: an error rather than one side losing."""
        if not Path(path).is_file():
            raise ValueError(f"ckpt_path {path} does not exist; `--ckpt_path last` resumes the newest of the run_dir")
        stored = arguments_of(torch.load(path, weights_only=True, map_location="cpu"))
        asked = self._get(self.config, "model").init_args.as_dict()
        different = {k: (v, asked[k]) for k, v in stored.items() if k in asked and asked[k] != v}
        if different:
            text = "; ".join(
                f"{key}: checkpoint {old!r}, configuration {new!r}" for key, (old, new) in different.items()
            )
            raise ValueError(
                f"{path} was trained with other settings ({text}). To go on, give the same; to change settings, start "
                "a new run from its weights with --model.init_args.init_from"
            )

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        run_dir = Path(self._get(self.config, "run_dir"))
        loggers = _loggers(run_dir, self._get(self.config, "tracking"), self._get(self.config, "project"))
        trainer = super().instantiate_trainer(logger=loggers, default_root_dir=str(run_dir), **kwargs)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(run_dir / "checkpoints")
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # a plugin of the user's own stays
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer


class SaveRunConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's own folder and hands it to the loggers.

    Lightning's own callback writes to `trainer.log_dir`, which W&B runs share (issue 7679).
    """

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        path = Path(self.config.run_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config.as_dict())
            if isinstance(logger, WandbLogger):
                _log_artifact(logger, path)


def _log_artifact(logger: WandbLogger, path: Path) -> None:
    import wandb

    artifact = wandb.Artifact("config", type="config")
    artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact)


def _loggers(run_dir: Path, tracking: Tracking, project: str) -> list[Logger]:
    """CSV always (a new version per launch, so that a resumed run keeps its first part), W&B on request."""
    loggers: list[Logger] = [CSVLogger(run_dir, name="csv")]
    if tracking != "csv":
        loggers.append(
            WandbLogger(
                project=project,
                save_dir=run_dir,
                id=_wandb_id(run_dir),
                name=run_dir.name,
                resume="allow",
                offline=tracking == "wandb_offline",
                log_model=False,
            )
        )
    return loggers


def _wandb_id(run_dir: Path) -> str:
    """One id per run_dir, kept in it, so that a requeued run goes on as the same W&B run and no two runs share one."""
    path = run_dir / "wandb_id"
    run_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def _refuse_second_run(run_dir: Path) -> None:
    """A fresh run in a used folder would save beside the old `last.ckpt`, and its readers would get the old model."""
    if any((run_dir / "checkpoints").glob("*.ckpt")):
        raise ValueError(
            f"{run_dir} already holds a run; take another --run_dir, go on with --ckpt_path last, or remove the folder"
        )


def _refuse_silent_restart(run_dir: Path) -> None:
    """`--ckpt_path last` without a checkpoint would start again at step 0 and say so in one warning only."""
    if any(path.exists() for path in (run_dir / "checkpoints").glob("last*")):
        return
    others = sorted((run_dir / "checkpoints").glob("*[0-9].ckpt"), key=lambda path: path.lstat().st_mtime)
    if others:
        raise ValueError(f"{run_dir} has no last.ckpt (a kill while it was written?); give --ckpt_path {others[-1]}")
    if any(_num_rows(path) for path in run_dir.glob("csv/*/metrics.csv")):
        raise ValueError(
            f"{run_dir} has logged steps but no checkpoint to resume from; restore {run_dir / 'checkpoints'} or choose "
            "another run_dir"
        )


def _num_rows(path: Path) -> int:
    with path.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))
