"""TRL's SFTTrainer for machines without Triton, where it would project every position through the LM head."""

from typing import Any

from dialogsum_sft.kernels.unpadded import ATTENTION, can_unpad, fuse_lora, unpad
from dialogsum_sft.training.trainer import ResumableSFTTrainer

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from transformers.utils import is_triton_available
from trl.trainer.utils import FusedCausalLMOutput


def without_triton() -> bool:
    """Whether TRL's fused LM head lacks its kernel here (a CPU, Apple's GPU), and so computes every position."""
    return not (is_triton_available() and (torch.cuda.is_available() or torch.xpu.is_available()))


class SupervisedLogitsSFTTrainer(ResumableSFTTrainer):
    """`SFTTrainer` whose logits are computed for the supervised positions only: the same loss in about half the time.

    A summary is a tenth of its row, and on a CPU the LM head over the rest costs half of a training step. Only the
    model's forward is replaced; the loss, its normalisation and the logged metrics stay TRL's. The adapter takes the
    base model's dtype: PEFT's fp32 adapters on a bf16 base cost a third more, and TRL does the same for QLoRA. On a
    CPU the batch also loses its padding, where the model allows it (see `unpadded`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dtype = self.model.get_input_embeddings().weight.dtype
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        if self.model.device.type == "cpu":
            fuse_lora(self.model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        unwrapped = self.accelerator.unwrap_model(model)
        base = unwrapped.get_base_model() if isinstance(unwrapped, PeftModel) else unwrapped
        head = base.get_output_embeddings()

        def forward(labels: torch.Tensor | None = None, fused_lm_head: bool = False, **batch: Any) -> Any:
            if labels is None or not fused_lm_head:
                return model(**batch) if labels is None else model(labels=labels, **batch)
            target = labels[:, 1:]
            mask = target != -100
            own_attention = base.config._attn_implementation
            padded = batch.keys() != {"input_ids", "attention_mask", "use_cache"} or not can_unpad(base)
            if padded or not batch["attention_mask"][:, 0].all():
                # The model calls its head on (rows, positions, hidden); it gets (supervised positions, hidden).
                hook = head.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][mask],))
            else:
                row = unpad(batch["input_ids"], batch["attention_mask"], labels)
                at = row.index[:, :-1][mask]
                hook = head.register_forward_pre_hook(lambda _, args: (args[0][0, at],))
                batch = {"input_ids": row.input_ids, "position_ids": row.position_ids, "use_cache": False}
                batch["segments"] = row.segments
                base.config._attn_implementation = ATTENTION
            try:
                outputs = model(**batch)
            finally:
                hook.remove()
                base.config._attn_implementation = own_attention
            logits = outputs.logits.float()
            log_probs = F.log_softmax(logits, dim=-1)
            target_log_probs = log_probs.gather(-1, target[mask].unsqueeze(-1)).squeeze(-1)
            with torch.no_grad():
                entropy = -(log_probs.exp() * log_probs).sum(-1)
                is_top1 = logits.argmax(-1) == target[mask]
            return FusedCausalLMOutput(
                log_probs=target_log_probs,
                entropy=entropy,
                is_top1=is_top1,
                label_mask=mask,
                aux_loss=getattr(outputs, "aux_loss", None),
            )

        return super().compute_loss(forward, inputs, return_outputs, num_items_in_batch)
