"""TRL's fused LM head for machines without Triton: logits are computed at the supervised positions only."""

from collections.abc import Callable
from typing import Any

from dialogsum_sft.kernels.unpadded import ATTENTION, can_unpad, unpad

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import is_triton_available
from trl.trainer.utils import FusedCausalLMOutput


def without_triton() -> bool:
    """Whether TRL's fused LM head has no kernel here (a CPU, Apple's GPU) and projects every position."""
    return not (is_triton_available() and (torch.cuda.is_available() or torch.xpu.is_available()))


def supervised_outputs(
    model: nn.Module, base: PreTrainedModel, labels: torch.Tensor, batch: dict[str, Any], *, autocast: bool = False
) -> Any:
    """The outputs of `model` on a `batch`, with `logits` (supervised positions, vocabulary), row after row.

    A position is supervised where the next of the `labels`, (rows, positions), is not -100. `base` is the transformers
    model in `model`. On a CPU the batch loses its padding, if `can_unpad(base)` and `model` does not run under
    `autocast`, which the kernels without padding do not support.
    """
    head = base.get_output_embeddings()
    mask = labels[:, 1:] != -100
    own_attention = base.config._attn_implementation
    padded = batch.keys() != {"input_ids", "attention_mask", "use_cache"} or autocast or not can_unpad(base)
    if padded or not batch["attention_mask"][:, 0].all():
        # The model calls its head on (rows, positions, hidden); it gets (supervised positions, hidden).
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][mask],))
    else:
        inputs, index = unpad(batch["input_ids"], batch["attention_mask"], labels)
        at = index[:, :-1][mask]
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][0, at],))
        batch = inputs | {"use_cache": False}
        base.config._attn_implementation = ATTENTION
    try:
        return model(**batch)
    finally:
        hook.remove()
        base.config._attn_implementation = own_attention


def supervised_forward(model: nn.Module, base: PreTrainedModel, *, autocast: bool) -> Callable[..., Any]:
    """A forward for `SFTTrainer.compute_loss` that projects the supervised positions only.

    `model` is called; `base` is the transformers model in it. A summary is a tenth of its row, and the LM head over
    the rest costs half of a training step on a CPU.
    """

    def forward(labels: torch.Tensor | None = None, fused_lm_head: bool = False, **batch: Any) -> Any:
        if labels is None or not fused_lm_head:
            return model(**batch) if labels is None else model(labels=labels, **batch)
        target = labels[:, 1:]
        mask = target != -100
        outputs = supervised_outputs(model, base, labels, batch, autocast=autocast)
        logits = outputs.logits.float()
        log_probs = F.log_softmax(logits, dim=-1)
        target_log_probs = log_probs.gather(-1, target[mask].unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            is_top1 = logits.argmax(-1) == target[mask]
        aux_loss = getattr(outputs, "aux_loss", None)
        return FusedCausalLMOutput(
            log_probs=target_log_probs, entropy=entropy, is_top1=is_top1, label_mask=mask, aux_loss=aux_loss
        )

    return forward
