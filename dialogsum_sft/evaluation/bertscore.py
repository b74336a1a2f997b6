"""BERTScore (Zhang et al. 2020): how well the tokens of two texts match in an encoder's hidden states.

An optional addition to ROUGE, with an encoder from a folder or the hub's cache. F1 without idf weights and without
rescaling, as by default in the package `bert_score`, which depends on matplotlib.
"""

from collections.abc import Sequence

from dialogsum_sft import InputError

import torch
from accelerate import PartialState
from transformers import AutoModel, AutoTokenizer


class BertScorer:
    """Scores with the hidden states of `layer`: by default 17 of roberta-large's 24, in proportion for others.

    Raises InputError when the model is neither a folder nor in the hub's cache (nothing is downloaded), or lacks the
    layer.
    """

    def __init__(self, model_name_or_path: str, layer: int | None = None) -> None:
        try:
            # RoBERTa has other tokens for a word at the beginning of a text than after a space.
            self.tokenizer = AutoTokenizer.from_pretrained(
                model_name_or_path, add_prefix_space=True, local_files_only=True
            )
            self.model = AutoModel.from_pretrained(model_name_or_path, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--bertscore {model_name_or_path}: no such encoder here; give a folder, or download it first with "
                f"hf download {model_name_or_path}"
            ) from error
        layers = self.model.config.num_hidden_layers
        self.name = model_name_or_path
        self.layer = round(layers * 17 / 24) if layer is None else layer
        if not 1 <= self.layer <= layers:
            raise InputError(f"--bertscore_layer {layer}: {model_name_or_path} has the layers 1 to {layers}")
        self.max_length = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings - 2)
        self.model.to(PartialState().device).eval()

    def scores(
        self, predictions: Sequence[str | Sequence[str]], references: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """F1 x 100 of each prediction against each of its references, [dialogue][reference]; 0 for an empty text.

        A prediction may be a list with one for each reference, as for `rouge_scores`.
        """
        each = [
            [prediction] * len(refs) if isinstance(prediction, str) else list(prediction)
            for prediction, refs in zip(predictions, references, strict=True)
        ]
        texts = sorted({text for several in (*each, *references) for text in several}, key=len)
        states: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for start in range(0, len(texts), 32):
            states.update(zip(texts[start : start + 32], self._encode(texts[start : start + 32]), strict=True))
        return [
            [_f1(states[text], states[ref]) for text, ref in zip(texts_of, refs, strict=True)]
            for texts_of, refs in zip(each, references, strict=True)
        ]

    def _encode(self, texts: list[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Unit vectors of each text's tokens, and a mask of the scored ones: special tokens are not scored."""
        batch = self.tokenizer(
            [text.strip() for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        special = batch.pop("special_tokens_mask").bool()
        with torch.inference_mode():
            output = self.model(**batch.to(self.model.device), output_hidden_states=True)
        vectors = torch.nn.functional.normalize(output.hidden_states[self.layer].float(), dim=-1).cpu()
        kept = batch["attention_mask"].bool().cpu()
        return [(vectors[i][kept[i]], ~special[i][kept[i]]) for i in range(len(texts))]


def _f1(prediction: tuple[torch.Tensor, torch.Tensor], reference: tuple[torch.Tensor, torch.Tensor]) -> float:
    cosines = prediction[0] @ reference[0].T
    if not prediction[1].any() or not reference[1].any():
        return 0.0
    precision = cosines.max(dim=1).values[prediction[1]].mean()
    recall = cosines.max(dim=0).values[reference[1]].mean()
    return 100 * float(2 * precision * recall / (precision + recall))
