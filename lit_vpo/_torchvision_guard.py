"""Lets torchvision's registry wheel (built for CUDA) be imported beside a CPU-only torch.

The wheel's compiled operators do not load there, and registering fake kernels for two operators that were never
declared makes `import torchvision` fail; through torchmetrics even `import lightning` fails. The finder waits for the
first import of `torchvision.extension` and, only if the operators did not load, declares the two schemas. It imports
no torch itself.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Wraps the loader of `torchvision.extension` once, then steps aside."""

    library: Any = None  # keeps the torch Library alive: its declarations end with it

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision.extension":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if not module._has_ops():
                _TorchvisionFinder.library = _declare_operators()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _declare_operators() -> Any:
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)  # type: ignore[no-untyped-call]
    return library


def install() -> None:
    """Installs the finder unless torchvision is already imported or the finder already stands."""
    if "torchvision.extension" in sys.modules or any(isinstance(f, _TorchvisionFinder) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, _TorchvisionFinder())
