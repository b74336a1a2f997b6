"""The completion-only collator: pads a batch, and refuses one whose loss would fall outside the summaries."""

from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


@dataclass
class CompletionOnlyCollator(DataCollatorForLanguageModeling):
    """TRL's collator for rows of `input_ids`, `labels`, `prompt_tokens` (from `prompts.encode`) and an `id` to name.

    Each row must be supervised on its summary and the stop token that ends it, and on nothing else: labels are -100 up
    to `prompt_tokens`, equal to `input_ids` from there to the first of `stop_token_ids`, and -100 behind it.

    Returns `input_ids`, `attention_mask` and `labels`, each (rows, longest row), padded on the right; raises
    InputError naming the row and what is wrong with it.
    """

    stop_token_ids: frozenset[int] = field(default=frozenset(), kw_only=True)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        for example in examples:
            fault = self.fault(example)
            if fault:
                raise InputError(f"training row {example.get('id', '(no id)')}: {fault}")
        batch: dict[str, Any] = super().torch_call(examples)
        return batch

    def fault(self, example: dict[str, Any]) -> str | None:
        """What is wrong with the labels of a row, or None."""
        ids, labels, n = example["input_ids"], example["labels"], example["prompt_tokens"]
        if len(ids) != len(labels):
            return f"{len(ids)} input ids but {len(labels)} labels"
        if any(label != -100 for label in labels[:n]):
            return "the prompt is supervised: a label before the summary is not -100"
        end = next((i for i in range(n, len(ids)) if ids[i] in self.stop_token_ids), None)
        if end is None:
            return "no stop token after the summary: the model would not learn to end it"
        if end == n:
            return "the summary is empty: only the stop token is supervised"
        if labels[n : end + 1] != ids[n : end + 1]:
            return "a token of the summary or its stop token is not supervised, or with another label"
        if any(label != -100 for label in labels[end + 1 :]):
            return "a label behind the stop token is not -100"
        return None
