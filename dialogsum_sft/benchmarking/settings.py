"""The options of recipes/benchmark.py, and the config of recipes/sft.py that it measures, with its rows."""

from dataclasses import dataclass, replace

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments, TrainArguments, json_option
from dialogsum_sft.benchmarking.vllm_process import interpreter_with_vllm
from dialogsum_sft.data import prompts
from dialogsum_sft.data.examples import Examples
from dialogsum_sft.data.training_data import TrainingData, first_examples, load_evaluation, load_training_data
from dialogsum_sft.modeling import check_adapter, length_limit, load_config, load_generation_config, load_tokenizer

from transformers.hf_argparser import HfArg
from trl import ModelConfig, ScriptArguments, SFTConfig


@dataclass
class BenchmarkArguments:
    recipe_config: str = HfArg(default="quickstart", help="Config of recipes/sft.py: a file, or a name in configs/.")
    rounds: int = HfArg(default=2, help="How often each system is run, in turn.")
    max_steps: int = HfArg(default=8, help="Training steps of a run; 0: only the speed of generation.")
    dialogues: int = HfArg(
        default=24, help="Dialogues to summarise, the first of the test split; 0: only the speed of training."
    )
    tutorial_dialogues: int = HfArg(
        default=4, help="Of these, so many evenly spread ones for the tutorial's slow loop."
    )
    adapter_path: str | None = HfArg(
        default=None, help="Adapter to summarise with. Default: the base model alone summarises."
    )
    max_new_tokens: int = HfArg(default=80, help="Longest summary, in tokens.")
    max_batch_tokens: int = HfArg(default=16384, help="Size of this package's generation batch.")
    quick: bool = HfArg(
        default=False, help="One round, 2 steps, 8 dialogues, 1 for the tutorial's loop, no eval loss."
    )
    profile: bool = HfArg(default=False, help="Print where the time of a training step goes.")
    variants: str | None = HfArg(
        default=None,
        help='More ways to train, as JSON of name: options, such as {"packed": "--packing true"}. '
        "Default: packed and packed with Liger kernels with a GPU, else none.",
    )
    peers: list[str] = HfArg(
        default_factory=list,
        help="More systems: trl_tuned, `trl sft` with bf16 weights, no activation checkpointing and no dropout; vllm.",
        metadata={"choices": ["trl_tuned", "vllm"]},
    )
    vllm_python: str | None = HfArg(
        default=None,
        help="Interpreter of an environment with vLLM and this package, for --peers vllm. Default: "
        ".venv-vllm/bin/python, which make test-vllm sets up, if it exists, else this one.",
    )
    vllm_kwargs: str | None = HfArg(
        default=None,
        help="More arguments of vllm.LLM as JSON. Default: without a GPU 2 GiB for keys and values, "
        '{"kv_cache_memory_bytes": 2147483648}; vLLM would take most of the memory.',
    )
    output: str | None = HfArg(default=None, help="JSON file for the figures.")

    def check(self, model_args: ModelConfig) -> None:
        """Shorten what is `quick`. Raises InputError for values that cannot work with this model."""
        if self.max_steps < 2 and self.max_steps != 0:
            raise InputError(f"--max_steps {self.max_steps}: the first step is not measured, so give 2 or more, or 0")
        for option, least in (("rounds", 1), ("dialogues", 0), ("tutorial_dialogues", 1)):
            if getattr(self, option) < least:
                raise InputError(f"--{option} {getattr(self, option)}: give {least} or more")
        if self.quick:
            self.rounds, self.dialogues, self.tutorial_dialogues = 1, min(self.dialogues, 8), 1
            self.max_steps = min(self.max_steps, 2)
        if self.adapter_path is not None:
            check_adapter(self.adapter_path, str(model_args.model_name_or_path))
        json_option("vllm_kwargs", self.vllm_kwargs)
        if "vllm" in self.peers:
            self.vllm_python = interpreter_with_vllm(self.vllm_python)


@dataclass
class Settings:
    """The config of recipes/sft.py that is measured."""

    script: ScriptArguments
    training: SFTConfig
    model: ModelConfig
    data: DataArguments
    train: TrainArguments

    @property
    def prompt(self) -> prompts.PromptSettings:
        return prompts.PromptSettings.from_arguments(self.data)

    def training_data(self) -> TrainingData:
        """The rows of recipes/sft.py without evaluations, and those of the validation split if there is one."""
        tokenizer = load_tokenizer(self.model, chat_template_path=self.training.chat_template_path)
        return load_training_data(
            self.script,
            self.data,
            self.train,
            tokenizer,
            prompts.stop_token_ids(tokenizer, load_generation_config(self.model)),
            max_length=length_limit(self.training.max_length, load_config(self.model)),
            evaluates=False,
            seed=self.training.seed,
            optional_validation=True,
        )

    def test_data(self, dialogues: int) -> Examples:
        """The first `dialogues` of the split that recipes/eval.py evaluates; of the sample its test split."""
        is_sample = self.script.dataset_name == "sample"
        script_args = replace(self.script, dataset_test_split="test") if is_sample else self.script
        return first_examples(load_evaluation(script_args, self.data, self.training.seed), dialogues)
