"""Which parts of the encoder are tuned: head only, the last n layers, LoRA, or all of it."""

from torch import nn

from recsys.data_schemas.config import EncoderConfig
from recsys.data_schemas.distribution import install_extra
from recsys.data_schemas.errors import UsageError
from recsys.encoder.torch_model import ItemEncoder

LORA_RANK = 16
"""Rank of LoRA's updates (Hu et al., 2021, use 4 to 64)."""


def set_trainable(encoder: ItemEncoder, config: EncoderConfig) -> None:
    """Mark the parameters that are tuned, and set dropout.

    Raises:
        UsageError: the strategy does not fit the model, or needs a package that is not there.
    """
    encoder.backbone.requires_grad_(config.freeze == "full")
    if config.freeze == "last_n":
        layers = encoder.layers
        if layers is None or config.last_n > len(layers):
            raise UsageError(
                "the encoder does not have that many layers",
                where="encoder.last_n",
                found=config.last_n,
                expected=f"at most {len(layers or [])}",
                fix="lower encoder.last_n, or use encoder.freeze: full",
            )
        for layer in layers[len(layers) - config.last_n :]:
            layer.requires_grad_(True)
    elif config.freeze == "lora":
        _add_lora(encoder)
    for module in encoder.backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    if config.gradient_checkpointing and config.freeze != "head":
        encoder.backbone.gradient_checkpointing_enable()


def frozen_layers(encoder: ItemEncoder, config: EncoderConfig) -> int:
    """Layers below the lowest tuned one."""
    count = len(encoder.layers or [])
    if config.freeze == "head":
        return count
    return count - config.last_n if config.freeze == "last_n" else 0


def _add_lora(encoder: ItemEncoder) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError(
            "LoRA needs a package that is not installed",
            where="encoder.freeze: lora",
            expected="the package peft",
            fix=f"{install_extra('lora')}, or choose another freeze strategy",
        ) from None
    names = {
        n.rsplit(".", 1)[-1]
        for n, m in encoder.backbone.named_modules()
        if isinstance(m, nn.Linear)
    }
    wanted = [
        n
        for n in ("query", "key", "value", "q_lin", "k_lin", "v_lin", "Wqkv", "q_proj", "v_proj")
        if n in names
    ]
    settings = LoraConfig(
        r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=wanted or sorted(names)
    )
    inject_adapter_in_model(settings, encoder.backbone)


def compile_layers(encoder: ItemEncoder, *, on: bool) -> None:
    """Run the transformer layers through `torch.compile`, or stop doing so (before an export)."""
    for layer in encoder.layers or ():
        if on:
            layer.compile(dynamic=True)
        else:
            layer._compiled_call_impl = None


def merge_lora(encoder: ItemEncoder) -> None:
    """Fold LoRA's updates into the weights they belong to, in place."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(encoder.backbone.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent = encoder.backbone.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
