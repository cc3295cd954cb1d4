"""Lightning's strategy for weights in shards, with the checkpoints of unsharded runs."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lit_vpo.sharding import for_checkpoint, split_like


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks; its checkpoints are single files with whole tensors, which runs of any strategy resume.

    Lightning's own class is not enough: it gathers the frozen base too for every checkpoint, looks up an optimizer's
    parameters by their number among all of the module's (a checkpoint of an unsharded run numbers the trained ones),
    and cannot resume where the optimizer has no state, as at a round's end (`IndexError: list index out of range` in
    `_rekey_optimizer_state_if_needed`, Lightning 2.6.6). It also splits tensors over a node's devices by default.

    Args:
        kwargs: `process_group_backend` and `timeout` of `ModelParallelStrategy`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        module: Any = self.lightning_module
        own = dict(module.named_parameters())
        return for_checkpoint({name: own[name] for name in module.kept_names()})

    @override
    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module: Any = self.lightning_module
        own = dict(module.named_parameters())
        for name, tensor in checkpoint["state_dict"].items():
            own[name].data.copy_(split_like(tensor, own[name]))

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        own = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = own.state_dict()
        return state | {"state": {number: for_checkpoint(values) for number, values in state["state"].items()}}

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state | {"state": split_state(state, optimizer)})


def split_state(state: Mapping[str, Any], optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """The shards of an optimizer's whole state: values of a parameter's shape are split like it.

    Args:
        state: From `optimizer.state_dict()` of an unsharded run, or of this strategy.
        optimizer: Whose parameters are sharded.
    """
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        number: {name: _split(value, parameter) for name, value in state["state"][number].items()}
        for number, parameter in zip(numbers, parameters, strict=True)
        if number in state["state"]
    }


def _split(value: Any, parameter: Tensor) -> Any:
    same_shape = isinstance(value, Tensor) and value.shape == parameter.shape
    return split_like(value, parameter) if same_shape else value
