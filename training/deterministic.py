"""Fits that give the same numbers again: on a processor, with as many threads.

Sums of gradients over repeated rows are added up in whatever order threads come, unless PyTorch is
told otherwise; a thousand steps later that is another model. On a GPU some operations have no
such form, so that fits there may differ in their last digits.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deterministic() -> Iterator[None]:
    """Operations in a fixed order while it lasts, unless a GPU computes."""
    import torch

    from recsys.encoder.device import best_device

    before = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    if best_device().type != "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warn)
