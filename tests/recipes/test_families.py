"""Every model family that has a config, on a tiny random model of its real class with its real chat template.

Each takes one optimizer step by that config; the adapter is saved, loaded, evaluated and merged.

The templates are TRL's. It ships none of Mistral 7B v0.3, SmolLM3 and Phi-4-mini; those below render text without
tools as their tokenizers do.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import ROOT, SAMPLE, TOKEN_LITERAL, Recipe, tiny_gemma3, trained_bpe

import pytest
import trl
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }}[/INST]"
    "{% else %} {{ message['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
SMOLLM3 = (
    "{% set thinks = enable_thinking is not defined or enable_thinking %}"
    "{% set answer = '<|im_start|>assistant\n' + ('' if thinks else '<think>\n\n</think>\n') %}"
    "<|im_start|>system\n## Metadata\n\nToday Date: {{ strftime_now('%d %B %Y') }}\n"
    "Reasoning Mode: {{ '/think' if thinks else '/no_think' }}\n\n## Custom Instructions\n\n"
    "{{ messages[0]['content'] if messages[0]['role'] == 'system' else 'Answer as an assistant.' }}\n\n<|im_end|>\n"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|im_start|>user\n{{ message['content'] }}<|im_end|>\n"
    "{% elif message['role'] == 'assistant' %}{{ answer + message['content'].lstrip('\n') }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ answer }}{% endif %}"
)
PHI4 = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
)

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}


@dataclass
class Family:
    """The class its hub checkpoints load as, its template, the token that ends an answer and its eos token."""

    model: type[PreTrainedModel]
    config: Any
    template: str
    end: str
    eos: str
    options: dict[str, Any] = field(default_factory=dict)


LLAMA = (LlamaForCausalLM, LlamaConfig)
QWEN = (Qwen3ForCausalLM, Qwen3Config)
FAMILIES = {
    "llama3_2_1b": Family(*LLAMA, "llama3_2.jinja", "<|eot_id|>", "<|eot_id|>", {"tie_word_embeddings": True}),
    "llama3_2_3b": Family(*LLAMA, "llama3_2.jinja", "<|eot_id|>", "<|eot_id|>", {"tie_word_embeddings": True}),
    "llama3_1_8b_qlora": Family(*LLAMA, "llama3_1.jinja", "<|eot_id|>", "<|eot_id|>"),
    "qwen3_1_7b": Family(*QWEN, "qwen3.jinja", "<|im_end|>", "<|im_end|>", {"head_dim": 16}),
    "qwen3_4b": Family(*QWEN, "qwen3_instruct_2507.jinja", "<|im_end|>", "<|im_end|>", {"head_dim": 16}),
    "qwen3_8b_qlora": Family(*QWEN, "qwen3.jinja", "<|im_end|>", "<|im_end|>", {"head_dim": 16}),
    "gemma3_4b": Family(Gemma3ForConditionalGeneration, Gemma3Config, "gemma3.jinja", "<end_of_turn>", "<eos>"),
    "mistral_7b_qlora": Family(MistralForCausalLM, MistralConfig, MISTRAL, "</s>", "</s>"),
    "smollm3_3b": Family(SmolLM3ForCausalLM, SmolLM3Config, SMOLLM3, "<|im_end|>", "<|im_end|>"),
    "phi4_mini": Family(
        Phi3ForCausalLM,
        Phi3Config,
        PHI4,
        "<|end|>",
        "<|endoftext|>",
        {"partial_rotary_factor": 0.75, "original_max_position_embeddings": 4096, "rope_parameters": LONGROPE},
    ),
}


def family_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    template = family.template
    if template.endswith(".jinja"):
        template = (Path(trl.__file__).parent / "chat_templates" / template).read_text(encoding="utf-8")
    literals = {*TOKEN_LITERAL.findall(template), family.end, "<|user|>", "<|assistant|>", "<|system|>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained_bpe()),
        bos_token="<s>" if "bos_token" in template else None,
        eos_token=family.eos,
        pad_token="<|endoftext|>",
        extra_special_tokens=sorted(literals),
    )
    tokenizer.chat_template = template
    return tokenizer


def family_folder(family: Family, folder: Path) -> Path:
    """A model folder whose generation config lists the token that ends an answer, as on the hub."""
    tokenizer = family_tokenizer(family)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    sizes = SMALL | {"vocab_size": len(tokenizer)} | special | family.options
    gemma3 = family.model is Gemma3ForConditionalGeneration
    model = tiny_gemma3(len(tokenizer), **special) if gemma3 else family.model(family.config(**sizes))
    model.generation_config = GenerationConfig(
        eos_token_id=sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(family.end)})
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


DATASETS = ("mts_dialog", "aci_bench", "qmsum", "nikl_dialogue", "vcsum")  # test_dataset_configs.py has these


def test_every_config_of_a_model_has_its_family() -> None:
    others = {"quickstart", "smollm2_135m_dialogsum", "llama2_7b_qlora"}
    others |= {"samsum", "tweetsumm", "local_csv", "chat_messages", *DATASETS}
    configs = {path.stem for path in (ROOT / "recipes" / "configs").glob("*.yaml")}
    assert configs - others == FAMILIES.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_evaluates_and_merges_by_its_config(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    family = FAMILIES[name]
    base = family_folder(family, tmp_path / "tiny")
    assert type(AutoModelForCausalLM.from_pretrained(base)) is family.model
    config = ROOT / "recipes" / "configs" / f"{name}.yaml"
    written = yaml.safe_load(config.read_text())
    here = [f"--model_name_or_path={base}", "--dataset_name=sample", f"--output_dir={tmp_path}"]
    if not written.get("load_in_4bit"):
        here.append("--dtype=float32")
    on_cpu = ["--bf16=false", "--optim=adamw_torch", "--dataloader_pin_memory=false"]
    short = [
        *("--max_steps=1", "--max_train_samples=4", "--max_eval_samples=2", "--per_device_train_batch_size=2"),
        *("--gradient_accumulation_steps=1", "--eval_strategy=no", "--save_strategy=no", "--learning_rate=0.01"),
        "--warmup_steps=0",
    ]
    recipe("sft", "--config", config, *here, *on_cpu, *short)
    supervised = capsys.readouterr().out.rsplit("⟦", 1)[1].split("⟧")[0]
    first = json.loads((SAMPLE / "train.jsonl").open(encoding="utf-8").readline())
    assert supervised.lstrip(" ") == first["summary"] + family.end  # Mistral has a space before an answer

    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(weight.abs().max() > 0 for weight in weights.values())  # each B has left its zeros
    adapted = {key.split(".lora_")[0] for key in weights}
    assert len(adapted) == 2 * (4 if family.model is Phi3ForCausalLM else 7)  # Phi-3 fuses q, k, v and gate, up
    assert not [key for key in adapted if "vision" in key]

    adapter = f"--adapter_path={tmp_path / 'adapter'}"
    recipe("eval", adapter, "--max_eval_samples=2", "--max_new_tokens=4")
    for system in ("base", "tuned"):
        assert len((tmp_path / f"eval-{system}/predictions.jsonl").read_text().splitlines()) == 2
    metrics = json.loads((tmp_path / "eval-tuned/metrics.json").read_text())
    assert metrics["model"]["load_in_4bit"] == written.get("load_in_4bit", False)

    if "gemma3" in name:
        (base / "preprocessor_config.json").write_text("{}")
    recipe("merge", f"--model_name_or_path={base}", adapter, "--num_prompts=1")
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) is family.model
    assert (tmp_path / "merged" / "preprocessor_config.json").is_file() == ("gemma3" in name)
