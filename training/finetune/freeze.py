"""Which parts of the encoder are tuned: head only, the last n layers, LoRA, or all of it."""

from torch import nn

from recsys.data_schemas.config import EncoderConfig
from recsys.data_schemas.errors import UsageError
from recsys.encoder.torch_model import ItemEncoder
from recsys.training.finetune.low_rank import add_low_rank


def set_trainable(encoder: ItemEncoder, config: EncoderConfig) -> None:
    """Mark the parameters that are tuned, and set dropout.

    Raises:
        UsageError: the strategy does not fit the model.
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
        add_low_rank(encoder)
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


def compile_layers(encoder: ItemEncoder, *, on: bool) -> None:
    """Run the transformer layers through `torch.compile`, or stop doing so (before an export)."""
    for layer in encoder.layers or ():
        if on:
            layer.compile(dynamic=True)
        else:
            layer._compiled_call_impl = None
