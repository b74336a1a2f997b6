"""The completion-only collator: pads a batch and refuses a row whose loss would fall outside its summary."""

from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.data.encoding import label_fault

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


@dataclass
class CompletionOnlyCollator(DataCollatorForLanguageModeling):
    """TRL's collator for rows of `input_ids`, `labels`, `prompt_tokens` (from `prompts.encode`) and an `id`.

    Returns `input_ids`, `attention_mask` and `labels`, each (rows, longest row), padded on the right. Raises
    InputError with the row's id and the `label_fault`.
    """

    stop_token_ids: frozenset[int] = field(default=frozenset(), kw_only=True)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        for example in examples:
            fault = label_fault(example, self.stop_token_ids)
            if fault:
                raise InputError(f"training row {example.get('id', '(no id)')}: {fault}")
        return super().torch_call(examples)
