"""A GPU that is not there: tensors that lie on the CPU and pass for another device's, to find misplaced ones.

Inside ``with pretended():`` :data:`GPU` can be moved to like any device. What mixes its tensors with the
CPU's raises RuntimeError, as a real GPU's would: PyTorch takes a CPU tensor beside a GPU's only where it is a
single number, an index of another tensor, or one side of a copy. NumPy does not get at them either. Results
are the CPU's, bit by bit. Nothing of CUDA itself is in it: kernels and their last digits, memory, speed.

:data:`WAITS` lists the operators that moved data between the devices, and those that a host waits for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Any device but the CPU would do that autograd asks no driver about; CUDA it would.
GPU = torch.device("lazy", 0)
_COPIES = {torch.ops.aten.copy_, torch.ops.aten._to_copy}
_INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_,
            torch.ops.aten._index_put_impl_, torch.ops.aten._unsafe_index}
_WAITED_FOR = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal,
               torch.ops.aten.masked_select}
WAITS: list[str] = []  # since a test has cleared it


class OnGPU(torch.Tensor):
    """``held``, a tensor on the CPU, under the other device's name."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnGPU":
        found = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=GPU)
        found.held = held
        return found

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})

    def tolist(self) -> list:  # torch's own refuses every class but Tensor
        return self.cpu().tolist()

    def __format__(self, how: str) -> str:
        return format(self.item(), how)


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Inside the block (and this thread) GPU is a device."""
    overwrite, lift = (torch.__future__.get_overwrite_module_params_on_conversion(),
                       torch._C._only_lift_cpu_tensors())
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a module's own tensors are no wrappers
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=GPU) makes it here, then moves it
    try:
        with _Watch():
            yield GPU
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        torch._C._set_only_lift_cpu_tensors(lift)


def _run(op, args: tuple, kwargs: dict):
    """``op`` on what is held. Results are where ``device`` says, or else where the arguments are."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    theirs = [x for x in given if isinstance(x, OnGPU)]
    packet = op.overloadpacket
    compared = tree_leaves((args[:1], args[2:], kwargs)) if packet in _INDEXED else given
    ours = [x for x in compared if isinstance(x, torch.Tensor) and not isinstance(x, OnGPU) and x.ndim]
    if theirs and ours and packet not in _COPIES:
        raise RuntimeError(f"{op}: tensors of {GPU} and of the CPU, {[tuple(x.shape) for x in ours]}")
    there = bool(theirs)
    sync = packet in _WAITED_FOR or any(x.dtype == torch.bool for x in tree_leaves((args[1:], kwargs))
                                        if packet in _INDEXED and isinstance(x, torch.Tensor))
    if (device := kwargs.get("device")) is not None:
        there = torch.device(device).type == GPU.type
        kwargs = {**kwargs, "device": "cpu" if there else device}
    if packet in _COPIES and given:
        here = isinstance(given[0], OnGPU)
        moved = not all(isinstance(x, OnGPU) == here for x in given) or there != here
    else:
        moved = False
    if moved or (theirs and sync):
        WAITS.append(str(op))
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnGPU) else x, (args, kwargs))
    known = {id(x.held): x for x in theirs} | {id(x): x for x in given}  # what works in place returns itself

    def placed(out):
        if not isinstance(out, torch.Tensor):
            return out
        return known.get(id(out)) if id(out) in known else OnGPU(out) if there else out

    return tree_map(placed, op(*args, **kwargs))
