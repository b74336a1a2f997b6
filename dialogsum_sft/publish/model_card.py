"""The model card: README.md beside the weights, with the scores, the prompt, the data and the training.

Its values come from run.json in the same folder and from evaluations; its words are in model_card.md.jinja. Scores are
kept in the card's metadata (`model-index`, which the hub displays) and read from there before others are added.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dialogsum_sft import files
from dialogsum_sft.data.chat_template import TEMPLATE_KWARGS, takes_role
from dialogsum_sft.data.prompts import PromptSettings

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoTokenizer

_ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
# Arguments that affect a result, by their names in run.json; those that are off or empty are left out.
_HYPERPARAMETERS = (
    *("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save", "use_rslora", "use_dora"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length"),
    *("packing", "neftune_noise_alpha", "loss_type", "drop_times", "rename_speakers", "swap_speakers"),
    "seed",
)


def can_be_written(folder: Path) -> bool:
    """Whether `folder` has the record of a training run: an adapter or model of recipes/sft.py, or a merged model."""
    record = folder / "run.json"
    return record.is_file() and "arguments" in json.loads(record.read_text(encoding="utf-8"))


def write(
    folder: Path,
    tuned: dict[str, Any] | None = None,
    base: dict[str, Any] | None = None,
    *,
    scores_of: Path | None = None,
) -> bool:
    """Write README.md from run.json in `folder`, with the scores of an evaluation (contents of metrics.json) if given.

    The card keeps scores on other test sets. Scores on the same one (dataset and split) are replaced unless the new
    ones are of fewer dialogues. Returns whether the scores given are in the card. `base` are the scores of the base
    model without the adapter. A merged model has the scores of its adapter, which is in `scores_of`.
    """
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    earlier = (scores_of or folder) / "README.md"
    results: list[EvalResult] = (ModelCard.load(earlier).data.eval_results or []) if earlier.is_file() else []
    taken = False
    if tuned is not None:
        new = _results(tuned, base)
        same = [result for result in results if result.unique_identifier == new[0].unique_identifier]
        taken = not same or (same[0].dataset_args or {}).get("dialogues", 0) <= tuned["examples"]
        if taken:
            results = [result for result in results if result not in same] + new
    files.write_text(folder / "README.md", _content(folder, record, results))
    return taken


def note_scores(weights: Path | None, records: Sequence[dict[str, Any]]) -> list[str]:
    """Put the scores of the last record, and of the one before for comparison, into the card of its weights, if it can
    have one; returns what there is to say."""
    if weights is None or not can_be_written(weights):
        return []
    try:
        noted = write(weights, records[-1], records[-2] if len(records) > 1 else None)
        end = "scores noted" if noted else "keeps its scores of more dialogues"
    except OSError as error:  # another user's folder
        end = f"the scores could not be noted here ({error.strerror})"
    return [f"{weights / 'README.md'}: {end}"]


def _results(tuned: dict[str, Any], base: dict[str, Any] | None) -> list[EvalResult]:
    """A result for each ROUGE. `metric_args` has its interval, `dataset_args` what comparable scores share."""
    data = tuned["data"]
    dialogues = {"dialogues": tuned["examples"], "dialogues_in_split": data["counts"]["dialogues"]}
    return [
        EvalResult(
            task_type="summarization",
            task_name="Dialogue summarization",
            dataset_type=str(data["dataset_name"]),
            dataset_name=str(data["dataset_name"]),
            dataset_split=data["split"],
            dataset_revision=data.get("revision"),
            dataset_args=tuned["fingerprint"] | dialogues | {"weights": _weights(tuned["model"])},
            metric_type="rouge",
            metric_name=name,
            metric_value=round(tuned[key]["mean"], 2),
            metric_args={
                "ci95": [round(bound, 2) for bound in tuned[key]["ci95"] or []],
                "zero_shot": None if base is None else round(base[key]["mean"], 2),
                "max_over_references": round(tuned[key]["max"], 2),
            },
        )
        for key, name in _ROUGE.items()
    ]


def _weights(model: dict[str, Any]) -> str:
    """The weights that were evaluated: a merged model has the scores of its adapter."""
    bits = "4-bit" if model["load_in_4bit"] else "8-bit" if model["load_in_8bit"] else model["dtype"]
    return f"adapter on the {bits} base" if model["adapter"] else str(bits)


def _content(folder: Path, run: dict[str, Any], results: list[EvalResult]) -> str:
    arguments, base, dataset = run["arguments"], str(run["base_model"]), str(run["arguments"]["dataset_name"])
    is_adapter = (folder / "adapter_config.json").is_file()
    name = str(arguments.get("hub_model_id") or f"{Path(base).name}-{Path(dataset).name}").split("/")[-1]
    read, rows, gpus = run["data"]["training"], run["data"]["rows_to_train_on"], run["hardware"]["gpus"]
    losses = {"training loss": run["metrics"].get("train_loss"), "validation loss": run["metrics"].get("eval_loss")}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"quoted": _quoted, "fenced": _fenced}
    return environment.get_template("model_card.md.jinja").render(
        metadata=_metadata(name, base, dataset, bool(arguments["use_peft"]), is_adapter, results),
        name=name,
        run=run,
        base_link=_link(base),
        dataset_link=_link(dataset, "datasets/"),
        bits="4-bit" if arguments.get("load_in_4bit") else "8-bit" if arguments.get("load_in_8bit") else None,
        results=[_result_row(result) for result in results],
        scorer=results[0].dataset_args if results else None,
        is_adapter=is_adapter,
        path=arguments.get("hub_model_id") or ".",
        chat=_chat(folder, run),
        template_kwargs=TEMPLATE_KWARGS,
        dropped=sum(read["rows_dropped"].values()) + sum(rows["rows_dropped"].values()),
        hyperparameters=_hyperparameters(run),
        device=f"{len(gpus)} x {gpus[0]}" if gpus else "CPU",
        losses=", ".join(f"{label} {loss:.3f}" for label, loss in losses.items() if loss is not None),
    )


def _metadata(name: str, base: str, dataset: str, use_peft: bool, is_adapter: bool, results: list[EvalResult]) -> str:
    """The YAML that the hub reads."""
    data = ModelCardData(
        base_model=base if _is_hub_id(base) else None,
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        datasets=[dataset] if _is_hub_id(dataset) else None,
        tags=["dialogue-summarization", "summarization", "trl", "sft", *(["lora"] if use_peft else [])],
        model_name=name,
        eval_results=results or None,
    )
    if not results:
        data.pop("model_name")  # else the metadata has a key that the hub does not know
    return data.to_yaml()


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).exists()


def _link(name: str, kind: str = "") -> str:
    return f"[{name}](https://huggingface.co/{kind}{name})" if _is_hub_id(name) else f"`{name}`"


def _result_row(result: EvalResult) -> list[str]:
    of, args = result.dataset_args or {}, result.metric_args or {}
    interval, zero_shot = args.get("ci95"), args.get("zero_shot")
    return [
        f"{result.dataset_name}, {result.dataset_split}",
        str(of.get("weights", "")),
        " of ".join(dict.fromkeys(str(of[name]) for name in ("dialogues", "dialogues_in_split"))),
        str(result.metric_name),
        f"{result.metric_value:.2f}",
        f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "",
        "" if zero_shot is None else f"{zero_shot:.2f}",
    ]


def _chat(folder: Path, run: dict[str, Any]) -> list[dict[str, str]]:
    """The messages of a prompt, with {dialogue} in place of the dialogue."""
    chat: list[dict[str, str]] = PromptSettings.from_record(run).messages("{dialogue}")["prompt"]
    if chat[0]["role"] == "system":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not takes_role(tokenizer, tokenizer.chat_template, "system"):
            chat = [{"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}]
    return chat


def _quoted(value: str | bool) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def _fenced(text: str) -> str:
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def _hyperparameters(record: dict[str, Any]) -> list[tuple[str, ...]]:
    arguments = record["arguments"]
    names = [name for name in _HYPERPARAMETERS if arguments["use_peft"] or not name.startswith("lora_")]
    if not (arguments.get("load_in_4bit") or arguments.get("load_in_8bit")):
        names = [name for name in names if "bnb" not in name]
    names.remove("num_train_epochs" if (arguments.get("max_steps") or -1) > 0 else "max_steps")
    values = [(name, arguments.get(name)) for name in names]
    texts = {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in values}
    rows = [(f"`{name}`", texts[name]) for name, value in values if value is not None and value is not False]
    return [*rows, ("processes", str(record["hardware"]["processes"]))]
