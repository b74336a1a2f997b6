"""Peak memory of a training step, estimated from a model's config; no weights are loaded.

The model and its adapter are built on torch's meta device and run over one batch of fake tensors (shapes and dtypes,
no storage), with the attention mask, autocast and LoRA branches of the training. The tensors that autograd saves for
the backward pass are counted, so that the estimate holds for any architecture. For a token in a layer of Llama (d
hidden, h = H heads x their size, f intermediate; 2 bytes a number, LoRA of rank r on all seven linear layers, rows
padded to n tokens) they take, in bytes,

    two norms 8d + 8 and their outputs 4d; SDPA's query, repeated key and value, and output 8h, its log-sum-exp 4H,
    its mask 2n; gated MLP 8f; LoRA 14r

With activation checkpointing a layer keeps only its input, 2d, and one layer at a time all the others.
"""

from dataclasses import dataclass, replace
from typing import Any

from dialogsum_sft.hardware import resolve_dtype
from dialogsum_sft.kernels.fused_lora import fuse_lora
from dialogsum_sft.kernels.unpadded import ATTENTION, only_causal
from dialogsum_sft.modeling import lora_config
from dialogsum_sft.training.shards import Sharding, gathered, master_weights, stored

import torch
from peft import get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.training_args import OptimizerNames
from trl import ModelConfig, SFTConfig

# Bytes of a process that has loaded all libraries and the rows of a small dataset, but no model: on a CPU its resident
# memory as measured before `load_model`, on a GPU the CUDA context with its kernels and workspaces.
PROCESS = {"cpu": 575 * 2**20, "cuda": 700 * 2**20}
WHOLE = Sharding()  # one process


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a training step, by what they hold.

    `overhead` is PROCESS, the gradients of one layer's activations, and on a CPU what malloc cannot reuse. `gathered`
    is what several processes exchange: whole layers whose weights are sharded, and buckets of gradients.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int
    gathered: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def fits(self, total_bytes: int) -> bool:
        return self.total <= total_bytes


def meta_model(
    config: PreTrainedConfig, model_args: ModelConfig, *, device: str = "cuda", trust_remote_code: bool = False
) -> nn.Module:
    """The model with its adapter as trained on `device` ("cuda" or "cpu"), on torch's meta device; not quantised."""
    on_gpu = device == "cuda" and model_args.dtype in ("auto", "bfloat16")  # whether or not this machine has a GPU
    dtype = torch.bfloat16 if on_gpu else resolve_dtype(model_args.dtype)
    attention = "eager" if model_args.attn_implementation == "eager" else None  # SDPA where the model has it
    with torch.device("meta"):
        options = {"dtype": dtype, "attn_implementation": attention, "trust_remote_code": trust_remote_code}
        model = AutoModelForCausalLM.from_config(config, **options)
        peft_config = lora_config(model_args, model)
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
            # PEFT makes float32 adapters, TRL bfloat16 ones on a quantised base; on a CPU ours have the base's dtype.
            quantised = model_args.load_in_4bit or model_args.load_in_8bit
            adapter_dtype = torch.bfloat16 if quantised else torch.float32 if device == "cuda" else dtype
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(adapter_dtype)
    return model.train()


def estimate(
    model: nn.Module,
    model_args: ModelConfig,
    training_args: SFTConfig,
    *,
    rows: int,
    length: int,
    supervised: float,
    shared: int = 0,
    device: str = "cuda",
    sharding: Sharding = WHOLE,
) -> MemoryEstimate:
    """Peak memory of one step on `rows` rows padded to `length` tokens, of which `supervised` a row have a label.

    The `shared` tokens with which all rows begin are computed once where a CPU trains without padding (`unpadded`).

    `model` is a `meta_model` for the same `device`; `sharding` is how several processes share it, each of which has
    such rows. FSDP is version 2, with 4-bit weights stored in the model's dtype. Paged optimizer states are counted,
    though they can be moved out of the GPU's memory.
    """
    base = model.get_base_model() if model_args.use_peft else model
    padded = device != "cpu" or not only_causal(base.config) or _autocast(training_args)
    padded = padded or bool(training_args.activation_checkpointing)
    activations, layer = _activations(model, model_args, training_args, rows, length, shared, padded)
    # On a CPU glibc's malloc cannot reuse the holes that temporaries leave between the activations: two thirds of the
    # activations after a few steps (more in a long run), but at least those of six layers. Measured with glibc 2.36,
    # where MALLOC_MMAP_THRESHOLD_=65536 in the environment avoids them at twice the time. Without padding there are
    # none in the first steps.
    holes = max(2 * activations // 3, 6 * layer) if device == "cpu" and padded else 0
    return MemoryEstimate(
        **_states(model, model_args, training_args, device, sharding),
        activations=activations,
        logits=_logits(model, round(rows * supervised), device),
        overhead=PROCESS[device] + layer + holes,
    )


def with_sharding(
    estimate: MemoryEstimate,
    model: nn.Module,
    model_args: ModelConfig,
    training_args: SFTConfig,
    *,
    sharding: Sharding,
    device: str = "cuda",
) -> MemoryEstimate:
    """The `estimate` of the same step where several processes share the states; activations are not computed again."""
    return replace(estimate, **_states(model, model_args, training_args, device, sharding))


def _states(
    model: nn.Module, model_args: ModelConfig, training_args: SFTConfig, device: str, sharding: Sharding
) -> dict[str, int]:
    """Bytes of what does not depend on the rows."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    half = _half(training_args) if _autocast(training_args) else None
    sizes = stored(_sizes(model, model_args), model, sharding, half)
    gradients = sum(sizes[id(parameter)] for parameter in trained)
    adapter = gradients if model_args.use_peft else 0
    weights = sharding if sharding.shards_weights else WHOLE
    states = sharding if sharding.backend else WHOLE
    # FSDP reduces the gradients in the last of several accumulated passes, and keeps them whole until then.
    accumulates = sharding.backend == "FSDP" and training_args.gradient_accumulation_steps > 1
    optimizer = _optimizer(trained, OptimizerNames(training_args.optim).value, sharding)
    return {
        "weights": weights.share(sum(sizes.values()) - adapter) + sum(buffer.nbytes for buffer in model.buffers()),
        "adapter": weights.share(adapter),
        "gradients": gradients if accumulates else states.share(gradients),
        "optimizer": states.share(optimizer + master_weights(trained, sharding, half)),
        "gathered": gathered(model, sizes, sharding, half, device),
    }


def _sizes(model: nn.Module, model_args: ModelConfig) -> dict[int, int]:
    """Bytes of each parameter by its id, of all linear layers but the head as bitsandbytes packs them."""
    sizes = {id(parameter): parameter.nbytes for parameter in model.parameters()}
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return sizes
    for module in (module for module in model.modules() if isinstance(module, nn.Linear)):
        if not module.weight.requires_grad and module is not model.get_output_embeddings():
            n = module.weight.numel()
            blocks = n // 64  # each with a float32 scale, or one of 8 bits with a float32 for every 256 of them
            scales = blocks + blocks // 64 if model_args.use_bnb_nested_quant else 4 * blocks
            packed = n + 4 * module.out_features if model_args.load_in_8bit else n // 2 + scales
            sizes[id(module.weight)] = packed
    return sizes


def _optimizer(trained: list[nn.Parameter], name: str, sharding: Sharding) -> int:
    """Bytes of the optimizer's states: two for each trained number in Adam, and in optimizers not listed here.

    They have the dtype of the weights; ZeRO's that of its float32 copies.
    """
    itemsize = 4 if (sharding.backend or "").startswith("ZeRO") else 0
    moments = {"ademamix": 3, "lion": 1, "rmsprop": 1, "adagrad": 1, "sgd": 0, "adafactor": 0, "lomo": 0}
    states = next((n for key, n in moments.items() if key in name), 2)
    # 8-bit optimizers have a float32 scale for every 256 numbers, and keep small tensors in 32 bits.
    each = (
        1 + 4 / 256 if "8bit" in name and p.numel() >= 4096 else 4 if "bit" in name else itemsize or p.itemsize
        for p in trained
    )
    return round(states * sum(p.numel() * size for p, size in zip(trained, each, strict=True)))


def _half(training_args: SFTConfig) -> torch.dtype:
    return torch.bfloat16 if training_args.bf16 else torch.float16


def _autocast(training_args: SFTConfig) -> bool:
    return bool(training_args.bf16 or training_args.fp16)


def _activations(
    model: nn.Module,
    model_args: ModelConfig,
    training_args: SFTConfig,
    rows: int,
    length: int,
    shared: int,
    padded: bool,
) -> tuple[int, int]:
    """Bytes that autograd saves in a forward pass without the head, and the largest share of one layer."""
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}  # by storage: views and common inputs count once
    inputs = [0]  # bytes of the input of each layer; the first entry is for the rest of the model
    place = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept.setdefault(storage._cdata, (storage, place))
        return tensor

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal place
        place = len(inputs)
        inputs.append(next(value.nbytes for value in [*args, *kwargs.values()] if isinstance(value, torch.Tensor)))

    def leave(*_: Any) -> None:
        nonlocal place
        place = 0

    hooks = []
    for layer in (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)):
        hooks += [layer.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave)]
    backbone = (model.get_base_model() if model_args.use_peft else model).base_model
    with FakeTensorMode():
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)
            for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]
        }
        own = {tensor.untyped_storage()._cdata for tensor in state.values()}
        # SDPA gets a mask for rows of different lengths; a single row and flash attention get none and keep less.
        batch: dict[str, Any] = {
            "input_ids": torch.zeros(rows, length, dtype=torch.long),
            "attention_mask": torch.ones(rows, 1, length, length, dtype=torch.bool),
        }
        if not padded:  # as `supervised_forward` calls the model
            segments = (shared, *(length - shared for _ in range(rows)))
            batch = {name: torch.zeros(1, sum(segments), dtype=torch.long) for name in ("input_ids", "position_ids")}
            batch["segments"] = segments
            fuse_lora(model)
            backbone.config._attn_implementation = ATTENTION
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", _half(training_args), enabled=_autocast(training_args)),
        ):
            functional_call(backbone, state, kwargs=batch | {"use_cache": False})
    if not padded:
        backbone.config._attn_implementation = "sdpa"
    for hook in hooks:
        hook.remove()
    sizes = [0] * len(inputs)
    for storage, at in kept.values():
        sizes[at] += storage.nbytes()
    widest = max(sizes[1:], default=0)
    return (sizes[0] + sum(inputs) + widest if training_args.activation_checkpointing else sum(sizes)), widest


def _logits(model: nn.Module, positions: int, device: str) -> int:
    """Bytes of the head over the supervised positions: TRL's fused one on a GPU, `supervised_forward` elsewhere."""
    weight = model.get_output_embeddings().weight
    vocabulary, hidden = weight.shape
    if device == "cuda":
        # A tile of up to 4,096 positions x 32,768 tokens; float32 gradients of the positions, and of a trained head.
        tile = min(positions, 4096) * 32768 * weight.element_size()
        return tile + 4 * hidden * (positions + (vocabulary if weight.requires_grad else 0))
    # The logits, again in float32 if they are not, their log-softmax, and for the entropy its exponential and product.
    return positions * vocabulary * (16 + (weight.element_size() if weight.element_size() < 4 else 0))
