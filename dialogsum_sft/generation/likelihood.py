"""The likelihood of summaries under a causal model, given their dialogue and without it: no reference is needed."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from dialogsum_sft import InputError
from dialogsum_sft.data.columns import named_fields
from dialogsum_sft.data.dialogue import rename_speakers
from dialogsum_sft.data.encoding import TOO_LONG, fitting_row
from dialogsum_sft.data.examples import fields_of
from dialogsum_sft.data.prompts import PromptSettings, encode_batch
from dialogsum_sft.data.transcripts import dialogue_of
from dialogsum_sft.generation.journal import Journal
from dialogsum_sft.generation.summarise import share
from dialogsum_sft.generation.transformers_engine import in_batches
from dialogsum_sft.kernels.supervised_logits import supervised_outputs

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMPTY = "empty summary"
_SEQUENCES = 2  # of each summary: after its dialogue, and after the prompt without one


@dataclass
class Tokens:
    """Token ids of a prompt and a summary, without the end of turn; the summary begins at `start`."""

    ids: list[int]
    start: int


@dataclass
class Scored:
    """The mean log-probability, in nats, of the tokens of a summary."""

    mean: float

    may_pass: ClassVar[bool] = False


class LikelihoodJournal(Journal):
    """The results of an unfinished measurement, in `folder`/likelihood.partial.jsonl."""

    name = "likelihood"
    kind = Scored


@dataclass
class Likelihoods:
    """Of each row, in order, the mean log-probability of a token of its summary given the dialogue, and the same minus
    that without the dialogue, in nats; None for a row that is `left_out`, which are counted by reason.

    `shortened` rows had a dialogue too long for the model's training. `resumed` results were in the journal.
    """

    values: list[tuple[float, float] | None]
    left_out: Counter[str]
    shortened: int
    resumed: int = 0
    notes: list[str] = field(default_factory=list)


class LikelihoodModel:
    """A model that says how likely summaries are, under the prompt and the lengths of its training.

    `load` returns the model, or a PeftModel with its adapter; it is called for the first batch. A batch has at most
    `max_batch_tokens`: rows times the longest. `fingerprint` names the measure: two are comparable where it is equal.
    `record` has what else is to be stored.
    """

    def __init__(
        self,
        load: Callable[[], PreTrainedModel | PeftModel],
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Collection[int],
        settings: PromptSettings,
        *,
        max_length: int | None,
        max_batch_tokens: int,
        fingerprint: Mapping[str, Any],
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self._load, self.tokenizer, self.stop_ids, self.settings = load, tokenizer, stop_ids, settings
        self.max_length, self.max_batch_tokens = max_length, max_batch_tokens
        self.fingerprint, self.record = dict(fingerprint), dict(record or {})

    @cached_property
    def model(self) -> PreTrainedModel | PeftModel:
        return self._load().eval()

    def close(self) -> None:
        """Free the model."""
        self.__dict__.pop("model", None)

    def measure(self, folder: Path, rows: Sequence[Mapping[str, Any]], progress: str | None = None) -> Likelihoods:
        """The likelihoods of the `prediction` of each row of a predictions.jsonl; call it on all processes.

        The processes share the work. Each result is in a `LikelihoodJournal` in `folder` before the next batch, and
        what it holds is not computed again. `progress` names a progress bar on the main process.

        Raises InputError for a likelihood that is not a finite number.
        """
        state = PartialState()
        pairs, result = self.encode(rows)
        names = [str(rows[i]["id"]) for i in pairs]
        sequences = [sequence for pair in pairs.values() for sequence in pair]
        settings = self.fingerprint | {"summaries": [[one.ids, one.start] for one in sequences]}
        ranks = {"process_index": state.process_index, "num_processes": state.num_processes}
        journal = LikelihoodJournal(folder, settings, names, _SEQUENCES, **ranks)
        done, lengths = dict(journal.done), [len(one.ids) for one in sequences]
        result.resumed, result.notes = len(done), journal.notes
        missing = [i for i in range(len(sequences)) if i not in done]
        todo = share(missing, lengths, state.process_index, state.num_processes)
        state.wait_for_everyone()  # each has read the files of all before one goes on writing

        def call(batch: list[int]) -> list[float]:
            return log_likelihoods(self.model, [sequences[todo[i]] for i in batch])

        made: dict[int, Scored] = {}
        hidden = progress is None or not state.is_main_process
        remedy = "a smaller --likelihood_model, or --likelihood_load_in_4bit true"
        with journal, tqdm(total=len(todo), desc=progress, disable=hidden) as bar:
            for batch, means in in_batches(call, [lengths[i] for i in todo], self.max_batch_tokens, remedy=remedy):
                numbered = [(todo[i], Scored(mean)) for i, mean in zip(batch, means, strict=True)]
                if wrong := [i for i, scored in numbered if not math.isfinite(scored.mean)]:
                    raise InputError(
                        f"the likelihood of {names[wrong[0] // _SEQUENCES]} under {self.fingerprint['model']} in "
                        f"{self.fingerprint['dtype']} is not a finite number: give --likelihood_dtype float32"
                    )
                journal.append(numbered)
                made.update(numbered)
                bar.update(len(batch))
        done |= dict(gather_object(list(made.items())))
        for number, i in enumerate(pairs):
            given, alone = (done[_SEQUENCES * number + at].mean for at in range(_SEQUENCES))
            result.values[i] = (given, given - alone)
        return result

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[int, tuple[Tokens, Tokens]], Likelihoods]:
        """The two sequences of each row that can be measured, and the result with the other rows counted.

        They are rows of a training: renamed, rendered and shortened in the same way.
        """
        named = named_fields(self.settings)
        if named and (without := [row["id"] for row in rows if not row.get("fields")]):
            raise InputError(
                f"the instruction of {self.fingerprint['model']} names columns ({', '.join(named)}), which the row "
                f"{without[0]} does not have: give a --likelihood_model without a run.json, or evaluate the dataset"
            )
        left_out: Counter[str] = Counter()
        result = Likelihoods([None] * len(rows), left_out, 0)
        used = [i for i, row in enumerate(rows) if str(row["prediction"]).strip()]
        left_out[EMPTY] = len(rows) - len(used)
        dialogues, summaries = {i: dialogue_of(rows[i]) for i in used}, {i: rows[i]["prediction"] for i in used}
        if self.settings.rename_speakers:
            for i in used:
                renamed = rename_speakers(dialogues[i], summaries[i])
                dialogues[i], summaries[i] = renamed.dialogue, renamed.summary or summaries[i]
        texts = [(dialogues[i].text, summaries[i]) for i in used]
        fields = [fields_of(rows[i]) for i in used]
        faults: dict[int, str] = {}
        options: dict[str, Any] = {"fields": fields, "faults": faults}
        encoded = [
            encode_batch(self.tokenizer, of_rows, self.stop_ids, self.settings, **options) if used else []
            for of_rows in (texts, [("", summary) for _, summary in texts])
        ]
        pairs = {}
        for at, i in enumerate(used):
            pair = [of_rows[at] for of_rows in encoded]
            if at in faults:
                left_out[faults[at]] += 1
                continue
            if self.max_length is not None and len(pair[0]["input_ids"]) > self.max_length:
                fitting = fitting_row(
                    self.tokenizer,
                    dialogues[i],
                    summaries[i],
                    fields[at],
                    self.stop_ids,
                    self.settings,
                    self.max_length,
                )
                if fitting is None:
                    left_out[TOO_LONG] += 1
                    continue
                pair[0] = fitting[0]
                result.shortened += 1
            given, alone = (Tokens(row["input_ids"][:-1], row["prompt_tokens"]) for row in pair)
            if given.start == len(given.ids):  # its characters have no tokens
                left_out[EMPTY] += 1
                continue
            pairs[i] = given, alone
        result.left_out = +left_out
        return pairs, result


@torch.inference_mode()  # type: ignore[untyped-decorator]
def log_likelihoods(model: PreTrainedModel | PeftModel, sequences: Sequence[Tokens]) -> list[float]:
    """The mean log-probability of the tokens of each summary, in nats, in one forward pass.

    Logits are computed at the summaries' positions alone. The log-softmax is in float32, whatever the model's dtype.
    """
    width = max(len(one.ids) for one in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, one in enumerate(sequences):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        mask[row, : len(one.ids)] = 1
        labels[row, one.start : len(one.ids)] = ids[row, one.start : len(one.ids)]
    ids, labels, mask = (tensor.to(model.device) for tensor in (ids, labels, mask))
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    batch = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    logits = supervised_outputs(model, base, labels, batch).logits
    targets = labels[:, 1:][labels[:, 1:] != -100]
    # In pieces, as float32 logits of a large vocabulary take more memory than the model's activations.
    pieces = zip(logits.split(512), targets.split(512), strict=True)
    log_probs = torch.cat([-F.cross_entropy(piece.float(), of_piece, reduction="none") for piece, of_piece in pieces])
    lengths = [len(one.ids) - one.start for one in sequences]
    return [float(part.mean()) for part in log_probs.cpu().double().split(lengths)]
