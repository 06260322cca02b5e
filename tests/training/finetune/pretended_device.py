"""A device that is not there: tensors on it are the processor's, and whoever mixes both is caught.

Tensors that were moved to `cuda`, or made there, are wrapped and say that they are on `cuda`. Every operation
is looked at: where one of its tensors was not moved, it fails as it would on a GPU (numbers of no dimension
apart, which CUDA takes too). So modules, optimisers and batches are seen to follow the device without one.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE = torch.device("cuda", 0)
MOVES = ("aten::_to_copy", "aten::copy_", "aten::_pin_memory")


class There(torch.Tensor):
    """A tensor that says it is on the device; `held` is the processor's."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=THERE,
        )
        wrapper.held = held
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})

    def numpy(self):
        raise TypeError("a tensor of the device has no numpy array: move it to the processor first")


class Pretending(TorchDispatchMode):
    """Everything that is made while it lasts is looked at too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func, args, kwargs):
    """An operation on what is held; its results are where its tensors are, or where it was told."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    told = kwargs.get("device")
    if told is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if "pin_memory" in kwargs:
        kwargs = {**kwargs, "pin_memory": False}
    if func.name() == "aten::_pin_memory":
        return args[0]
    strangers = [t for t in tensors if not isinstance(t, There) and t.dim() > 0]
    if there and strangers and func.name() not in MOVES:
        raise AssertionError(f"{func.name()} of a tensor that is not on the device")
    plain_args, plain_kwargs = tree_map(
        lambda leaf: leaf.held if isinstance(leaf, There) else leaf, (args, kwargs)
    )
    out = func(*plain_args, **plain_kwargs)
    stays = torch.device(told).type == "cpu" if told is not None else not there
    if func.name() == "aten::copy_":
        return args[0]
    if stays:
        return out
    own = {id(tensor.held): tensor for tensor in there}
    return tree_map(
        lambda leaf: own.get(id(leaf), There(leaf)) if isinstance(leaf, torch.Tensor) else leaf, out
    )


@contextmanager
def pretended_device(monkeypatch):
    """`cuda` is there while it lasts, as far as PyTorch's own checks go."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    torch._C._ensureCUDADeviceGuardSet()
    with Pretending():
        yield THERE
