"""A device that is not the processor, pretended: what comes from numpy is the host's until it is moved."""

from contextlib import contextmanager

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map


class Unmoved(torch.Tensor):
    """A tensor on the host's side. With others of its kind it may do anything and stays one; mixed with a
    tensor of the device it fails, as it would with the device elsewhere."""

    COPIES = ("copy_",)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        found = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        with torch._C.DisableTorchFunctionSubclass():
            if name == "to" and names_device(args[1:], kwargs):
                return func(args[0].as_subclass(torch.Tensor), *args[1:], **kwargs)
            if name in cls.COPIES:
                return func(*args, **kwargs)
            if all(isinstance(tensor, cls) for tensor in found):
                return tree_map(marked, func(*args, **kwargs))
        raise AssertionError(f"{name} of a tensor that is not on the model's device")


def marked(value):
    return value.as_subclass(Unmoved) if isinstance(value, torch.Tensor) else value


def names_device(args, kwargs):
    return "device" in kwargs or any(isinstance(x, torch.device | str) for x in args)


@pytest.fixture
def elsewhere(monkeypatch):
    """() → a context in which the models' device is another one than the host's.

    A tensor made of numpy's or read back is `Unmoved`; one made without naming a device lands on
    `meta`, where mixing it with others fails too.
    """
    given, back, depth = torch.from_numpy, torch.Tensor.cpu, [0]

    def from_numpy(array):
        return marked(given(array)) if depth[0] else given(array)

    def cpu(tensor, *args, **kwargs):
        return marked(back(tensor, *args, **kwargs)) if depth[0] else back(tensor, *args, **kwargs)

    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)

    @contextmanager
    def entered():
        depth[0] += 1
        try:
            with torch.device("meta"):
                yield
        finally:
            depth[0] -= 1

    return entered


@pytest.fixture
def unmoved():
    """The class of tensors on the host's side."""
    return Unmoved
