"""GGUF: a model folder as one file for llama.cpp and Ollama, written by the package gguf.

Covered are the architectures and tokenizers whose files llama.cpp computes the same with; others are refused. The
names and the order of the weights are those of llama.cpp's own convert_hf_to_gguf.py.
"""

import importlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ARCHITECTURES = ("llama", "qwen2", "qwen3", "smollm3")
_READ_BY_TRANSFORMERS = ("llama", "qwen2", "qwen3")
_LAST_RESORT = "try llama.cpp's own convert_hf_to_gguf.py on the merged folder"

# llama.cpp's names of the ways in which a text is divided before byte pairs are merged.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _CONTRACTIONS + r"\p{N}" + _PUNCTUATION: "qwen2",
    _CONTRACTIONS + r"\p{N}{1,3}" + _PUNCTUATION: "llama-bpe",
}


def check(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError where a model cannot be written as GGUF, in one line."""
    _gguf()
    kind, rope = config.model_type, _rope(config)
    if kind not in ARCHITECTURES:
        raise InputError(f"--gguf covers {', '.join(ARCHITECTURES)}, and this model is {kind}: {_LAST_RESORT}")
    if rope.get("rope_type", "default") not in ("default", "linear", *(["llama3"] if kind == "llama" else [])):
        raise InputError(f"--gguf has no rope of the type {rope['rope_type']} for {kind}: {_LAST_RESORT}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise InputError(f"--gguf has no sliding window for {kind}: {_LAST_RESORT}")
    if kind == "smollm3" and config.no_rope_layers != [int((i + 1) % 4 > 0) for i in range(config.num_hidden_layers)]:
        raise InputError(
            f"--gguf: llama.cpp's smollm3 has no rope in each fourth layer, yours elsewhere: {_LAST_RESORT}"
        )
    _pre_tokenizer(tokenizer)


def write(
    folder: Path, name: str, kind: str, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int], add_bos: bool
) -> Path:
    """Write the weights of a model folder to `folder`/model-`kind`.gguf, and return its path.

    `kind` is f32, f16, bf16 or q8_0 (blocks of 32 weights in 8 bits); vectors are in float32, and so are matrices
    whose rows are no multiple of 32 in f16 instead of q8_0. `add_bos`: whether llama.cpp puts the tokenizer's BOS
    token before a text. One weight at a time is in memory. Raises InputError as `check` does.
    """
    gguf = _gguf()
    config = AutoConfig.from_pretrained(folder)
    check(config, tokenizer)
    writer = gguf.GGUFWriter(None, config.model_type)
    _add_settings(writer, config, name, kind)
    _add_vocabulary(writer, config, tokenizer, stop_ids, add_bos)
    for tensor_name, tensor in _tensors(folder, config):
        stored = _type_of(tensor, kind)
        block, size = gguf.GGML_QUANT_SIZES[stored]  # weights, bytes
        writer.add_tensor_info(
            tensor_name, tuple(tensor.shape), np.dtype(np.float32), tensor.numel() // block * size, raw_dtype=stored
        )
    path = folder / f"model-{kind}.gguf"
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with tqdm(desc=path.name, total=len(writer.tensors[0]), unit="weight", leave=False) as bar:
        for _, tensor in _tensors(folder, config):
            writer.write_tensor_data(gguf.quantize(tensor.float().numpy(), _type_of(tensor, kind)))
            bar.update()
    writer.close()
    return path


def load(path: Path) -> PreTrainedModel | None:
    """The model of a GGUF file in float32 as transformers reads it; None where transformers cannot read its kind.

    The config is that of the folder: a GGUF file has no place for some of its values.
    """
    config = AutoConfig.from_pretrained(path.parent)
    if config.model_type not in _READ_BY_TRANSFORMERS:
        return None
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        config=config,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    return model


def adds_bos(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int]) -> bool:
    """Whether llama.cpp has to put the BOS token before a text: the tokenizer does, and the prompts begin with it."""
    bos = tokenizer.bos_token_id
    return bos is not None and prompt_ids[:1] == [bos] and tokenizer("text")["input_ids"][:1] == [bos]


def _gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise InputError("--gguf needs the package gguf: pip install gguf") from error


def _rope(config: PreTrainedConfig) -> dict[str, Any]:
    return dict(config.rope_parameters or {})


def _head_size(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_settings(writer: Any, config: PreTrainedConfig, name: str, kind: str) -> None:
    gguf = _gguf()
    rope, head = _rope(config), _head_size(config)
    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[file_types[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _add_vocabulary(
    writer: Any,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Collection[int],
    add_bos: bool,
) -> None:
    gguf = _gguf()
    texts = {number: text for text, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    types = []
    for number in range(config.vocab_size):
        kind = gguf.TokenType.NORMAL if number in texts else gguf.TokenType.UNUSED
        if number in added:
            kind = gguf.TokenType.CONTROL if added[number].special else gguf.TokenType.USER_DEFINED
        types.append(kind)
    merges = _backend(tokenizer)["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_list([texts.get(number, f"[PAD{number}]") for number in range(config.vocab_size)])
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    stops = sorted(number for number in stop_ids if number < config.vocab_size)
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id in stops else stops[0]
    others = [number for number in stops if number != eos]
    writer.add_eos_token_id(eos)
    if others:  # llama.cpp stops at the well-known names of such tokens besides
        writer.add_eot_token_id(others[0])
    if tokenizer.bos_token_id is not None and tokenizer.bos_token_id < config.vocab_size:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < config.vocab_size:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template(str(tokenizer.chat_template))


def _backend(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The tokenizer.json of a fast tokenizer, {} for another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else dict(json.loads(backend.to_str()))


def _pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name of how the tokenizer divides a text. Raises InputError where it has none that is equal."""
    backend = _backend(tokenizer)
    model, step = backend.get("model", {}), backend.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", [step])
    found = None
    if model.get("type") == "BPE" and steps[-1].get("type") == "ByteLevel" and not steps[-1]["add_prefix_space"]:
        by_regex = steps[-1]["use_regex"]
        if len(steps) == 1 and by_regex:
            found = "gpt-2"
        elif len(steps) == 2 and steps[0] == {"type": "Digits", "individual_digits": True} and by_regex:
            found = "smollm"
        elif len(steps) == 2 and steps[0]["type"] == "Split" and not by_regex:
            isolated = steps[0]["behavior"] == "Isolated" and not steps[0]["invert"]
            found = _SPLITS.get(steps[0]["pattern"].get("Regex", "")) if isolated else None
    whole_words = bool(model.get("ignore_merges"))  # llama.cpp takes words of the vocabulary whole in this one alone
    normal = backend.get("normalizer") in (None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []})
    spaced = [token.content for token in tokenizer.added_tokens_decoder.values() if token.lstrip or token.rstrip]
    if found is None or whole_words != (found == "llama-bpe") or not normal or spaced:
        raise InputError(
            "--gguf covers byte-level BPE tokenizers that divide texts as those of GPT-2, SmolLM, Qwen or Llama 3 do, "
            f"and {tokenizer.name_or_path} does not: {_LAST_RESORT}"
        )
    return found


def _tensors(folder: Path, config: PreTrainedConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights by their names in llama.cpp, one at a time."""
    gguf = _gguf()
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == config.model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    if (rope := _rope(config)).get("rope_type") == "llama3":
        size = _head_size(config)
        unscaled = rope["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float32) / size)
        yield "rope_freqs.weight", unscaled / ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                known = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if known is None:
                    raise InputError(f"--gguf has no place for the weight {name}: {_LAST_RESORT}")
                yield known, _ordered(weights.get_tensor(name), name, config)


def _ordered(tensor: torch.Tensor, name: str, config: PreTrainedConfig) -> torch.Tensor:
    """Queries and keys of Llama rotate neighbouring dimensions in llama.cpp, and the halves in transformers."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None or config.model_type not in ("llama", "smollm3"):
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _type_of(tensor: torch.Tensor, kind: str) -> Any:
    gguf = _gguf()
    if tensor.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    return gguf.GGMLQuantizationType["F16" if tensor.shape[-1] % block else kind.upper()]
