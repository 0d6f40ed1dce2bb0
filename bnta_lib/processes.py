"""The processes of a training: this one alone, or those that a launcher started.

``accelerate launch --multi_gpu`` (and torchrun) set ``WORLD_SIZE``. Where it is not there, or 1,
nothing here does anything, and the package accelerate is not imported.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# The others wait while the main process renders or decodes the images: longer than the ten minutes
# after which torch gives up on GPUs.
PATIENCE = timedelta(hours=3)


class Processes:
    """Which process this is, and what all of them do together.

    ``rank`` of ``count``; ``main``, whether it is rank 0, which alone writes and prints; and its
    own ``device`` (default: a GPU if there is one). Each method must be called by every process.
    Raises ImportError where several were launched without accelerate, and ValueError where they
    were launched to do anything but train data-parallel on GPUs or CPUs.
    """

    def __init__(self, device: str | torch.device | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.rank, self.count, self.main, self._accelerator = 0, 1, True, None
        if int(os.environ.get("WORLD_SIZE") or 1) == 1:
            _warn_of_one()
            return
        try:
            from accelerate import Accelerator
            from accelerate.utils import InitProcessGroupKwargs
        except ImportError as error:
            raise ImportError("training in several processes needs the package accelerate, which "
                              f"cannot be imported here ({error}): pip install accelerate") from error
        # Precision and compilation are training's own, whatever the launcher's configuration says.
        own = Accelerator(
            cpu=self.device.type == "cpu", mixed_precision="no", dynamo_backend="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        if own.distributed_type not in ("MULTI_GPU", "MULTI_CPU"):
            raise ValueError("several processes train data-parallel on GPUs or CPUs alone, and these were "
                             f"launched as {own.distributed_type.value}: launch them with `accelerate launch "
                             "--multi_gpu`, without DeepSpeed, FSDP or Megatron")
        self._accelerator, self.device = own, own.device
        self.rank, self.count, self.main = own.process_index, own.num_processes, own.is_main_process

    def by_main(self, make: Callable[[], T]) -> T:
        """What ``make`` gives or raises on the main process, which alone calls it, on all of them."""
        if self._accelerator is None:
            return make()
        from accelerate.utils import broadcast_object_list

        said: list = [None, None]
        if self.main:
            try:
                said[0] = make()
            except Exception as error:  # or the others would wait for it
                said[1] = error
        result, error = broadcast_object_list(said)
        if error is not None:
            raise error
        return result

    def in_turn(self, make: Callable[[], T]) -> T:
        """What ``make`` gives: on the main process first, then on the first of each machine, then on
        the others, so that what is downloaded or kept in a cache is so once."""
        if self._accelerator is None:
            return make()
        made: list[T] = []
        self.by_main(lambda: made.append(make()))
        with self._accelerator.local_main_process_first():
            return made[0] if made else make()

    def share(self, size: int, group: int = 1) -> slice:
        """This process's rows of a batch: whole groups, and as many as the others', or one more."""
        groups = size // group
        return slice(*(groups * rank // self.count * group for rank in (self.rank, self.rank + 1)))

    def smallest_share(self, size: int, group: int = 1) -> int:
        """Rows of the process that has the fewest of a batch."""
        return size // group // self.count * group

    def summed(self, values: Tensor) -> Tensor:
        """``values`` added up over the processes."""
        return values if self._accelerator is None else self._accelerator.reduce(values, "sum")

    def averaging(self, module: nn.Module, some_unused: bool) -> nn.Module:
        """``module``, whose gradients are from now on means over the processes.

        ``some_unused``: whether what it gives leaves some parameters without gradient.
        """
        if self._accelerator is None:
            return module
        from accelerate.utils import DistributedDataParallelKwargs

        self._accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=some_unused)
        return self._accelerator.prepare_model(module)

    def align(self, model: nn.Module) -> None:
        """Give all processes the main one's buffers, batch norm's running statistics among them."""
        if self._accelerator is not None:
            from accelerate.utils import broadcast

            broadcast([*model.buffers()])

    def end(self) -> None:
        """Leave the group of processes; nothing can be done together afterwards."""
        if self._accelerator is not None:
            self._accelerator.end_training()


@functools.cache  # once is enough
def _warn_of_one() -> None:
    """accelerate names a meeting point where several processes were asked for, also if it starts one."""
    alone = "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    if alone and "ACCELERATE_MIXED_PRECISION" in os.environ:
        warnings.warn("accelerate launch has started one process, which trains alone: where several were "
                      "asked for, add --multi_gpu, which starts them on CPUs too (--cpu never does)",
                      stacklevel=3)
