"""The options of recipes/benchmark.py, and the config of recipes/sft.py that it measures."""

from dataclasses import dataclass

from dialogsum_sft.arguments import DataArguments, TrainArguments
from dialogsum_sft.data.prompts import PromptSettings

from transformers.hf_argparser import HfArg
from trl import ModelConfig, ScriptArguments, SFTConfig


@dataclass
class BenchmarkArguments:
    recipe_config: str = HfArg(default="quickstart", help="Config of recipes/sft.py: a file, or a name in configs/.")
    rounds: int = HfArg(default=2, help="How often each system is run, in turn.")
    max_steps: int = HfArg(default=8, help="Training steps of a run.")
    dialogues: int = HfArg(
        default=24, help="Dialogues to summarise, the first of the test split; 0: only the speed of training."
    )
    tutorial_dialogues: int = HfArg(
        default=4, help="Of these, so many evenly spread ones for the tutorial's slow loop."
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
        help="More systems: trl_tuned, `trl sft` with bf16 weights, no activation checkpointing and no dropout.",
        metadata={"choices": ["trl_tuned"]},
    )
    output: str | None = HfArg(default=None, help="JSON file for the figures.")


@dataclass
class Settings:
    """The config of recipes/sft.py that is measured."""

    script: ScriptArguments
    training: SFTConfig
    model: ModelConfig
    data: DataArguments
    train: TrainArguments

    @property
    def prompt(self) -> PromptSettings:
        return PromptSettings.from_arguments(self.data)
