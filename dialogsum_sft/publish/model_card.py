"""The model card, README.md beside the weights: what it is, how it came about, how good it is, how to load it.

All of it comes from the run.json in the same folder and from evaluations. The scores stand in the card's metadata
(`model-index`, which the hub shows) and are read back from there, so that one evaluation does not lose another's.
"""

import json
import re
from pathlib import Path
from typing import Any

from dialogsum_sft import files
from dialogsum_sft.data.prompts import TEMPLATE_KWARGS, PromptSettings, takes_role

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoTokenizer

_ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
# The arguments that decide a result, as they are named in run.json; those that are off or empty are left out.
_HYPERPARAMETERS = (
    *("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save", "use_rslora", "use_dora"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length"),
    *("packing", "neftune_noise_alpha", "loss_type", "rename_speakers", "swap_speakers", "seed"),
)


def can_be_written(folder: Path) -> bool:
    """Whether `folder` holds the record of a training run: what recipes/sft.py left, or a model merged from it."""
    record = folder / "run.json"
    return record.is_file() and "arguments" in json.loads(record.read_text(encoding="utf-8"))


def write(
    folder: Path,
    tuned: dict[str, Any] | None = None,
    base: dict[str, Any] | None = None,
    *,
    scores_of: Path | None = None,
) -> bool:
    """Write README.md from run.json in `folder`, with the scores of an evaluation (metrics.json's contents) if given.

    Scores that the card has of other test sets stay. Of the same one (dataset and split) the new scores replace the
    old unless they are of fewer dialogues: a quick look does not replace a result. Returns whether the scores given
    are in the card. `base` holds those of the base model without the adapter, for comparison. A merged model takes
    over the scores of its adapter, which lies in `scores_of`.
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


def _results(tuned: dict[str, Any], base: dict[str, Any] | None) -> list[EvalResult]:
    """A result for each ROUGE: its interval in `metric_args`; in `dataset_args`, what comparable scores share."""
    data = tuned["data"]
    return [
        EvalResult(
            task_type="summarization",
            task_name="Dialogue summarization",
            dataset_type=str(data["dataset_name"]),
            dataset_name=str(data["dataset_name"]),
            dataset_split=data["split"],
            dataset_revision=data.get("revision"),
            dataset_args=tuned["fingerprint"]
            | {
                "dialogues": tuned["examples"],
                "dialogues_in_split": data["counts"]["dialogues"],
                "weights": _weights(tuned["model"]),
            },
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
    """What was evaluated: a merged model takes over the scores that its adapter had."""
    bits = "4-bit" if model["load_in_4bit"] else "8-bit" if model["load_in_8bit"] else model["dtype"]
    return f"adapter on the {bits} base" if model["adapter"] else str(bits)


def _content(folder: Path, record: dict[str, Any], results: list[EvalResult]) -> str:
    arguments, base = record["arguments"], str(record["base_model"])
    dataset = str(arguments["dataset_name"])
    merged, is_adapter = record.get("merge"), (folder / "adapter_config.json").is_file()
    name = str(arguments.get("hub_model_id") or f"{Path(base).name}-{Path(dataset).name}").split("/")[-1]
    data = ModelCardData(
        base_model=base if _is_hub_id(base) else None,
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        datasets=[dataset] if _is_hub_id(dataset) else None,
        tags=["dialogue-summarization", "summarization", "trl", "sft", *(["lora"] if arguments["use_peft"] else [])],
        model_name=name,
        eval_results=results or None,
    )
    if not results:
        data.pop("model_name")  # else the metadata has a key that the hub does not know
    kind = f"{_method(arguments)} of {_link(base)}" if not merged else f"{_link(base)} with its adapter merged in"
    text = f"""# {name}

{kind}, to summarise dialogues; trained on {_link(dataset, "datasets/")} with TRL's `SFTTrainer` by dialogsum-sft.

## Results

{_result_text(results)}

## How to use it

```python
{_snippet(folder, record, is_adapter)}
```

It was trained behind this prompt, and is at its best behind the same. {_prompt_text(record)}

## Data

{_data_text(record)}

## Training

{_table(("option", "value"), _hyperparameters(record))}

{_training_text(record)}

## Limits

It summarises dialogues like those it was trained on. A summary may leave out, mix up or invent who said or did what:
let nobody rely on one unread. What the base model and the data are biased to, it is biased to. Scores are ROUGE, which
counts words shared with a reference and does not see whether a statement is true.

## Licence

Of the weights: that of the base model, {_link(base)}; see there. The data may have terms of its own.
"""
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _method(arguments: dict[str, Any]) -> str:
    if not arguments["use_peft"]:
        return "A full fine-tuning"
    kind = "DoRA" if arguments.get("use_dora") else "rsLoRA" if arguments.get("use_rslora") else "LoRA"
    quantised = "4-bit " if arguments.get("load_in_4bit") else "8-bit " if arguments.get("load_in_8bit") else ""
    return f"A {kind} adapter, trained on the {quantised}quantised weights" if quantised else f"A {kind} adapter"


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).exists()


def _link(name: str, kind: str = "") -> str:
    return f"[{name}](https://huggingface.co/{kind}{name})" if _is_hub_id(name) else f"`{name}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _result_text(results: list[EvalResult]) -> str:
    if not results:
        return "Not evaluated yet: `recipes/eval.py` puts the scores here."
    rows: list[tuple[str, ...]] = []
    for result in results:
        of, args = result.dataset_args or {}, result.metric_args or {}
        interval, zero_shot = args.get("ci95"), args.get("zero_shot")
        rows.append(
            (
                f"{result.dataset_name}, {result.dataset_split}",
                str(of.get("weights", "")),
                " of ".join(dict.fromkeys(str(of[name]) for name in ("dialogues", "dialogues_in_split"))),
                str(result.metric_name),
                f"{result.metric_value:.2f}",
                f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "",
                "" if zero_shot is None else f"{zero_shot:.2f}",
            )
        )
    head = ("test set", "weights", "dialogues", "metric", "F1 x 100", "95% interval", "base model, zero-shot")
    of = results[0].dataset_args or {}
    return (
        f"{_table(head, rows)}\n\n{of['library']} with its stemmer, tokenizer {of['tokenizer']}; {of['aggregation']}; "
        "the interval is a seeded bootstrap over dialogues. Greedy decoding."
    )


def _snippet(folder: Path, record: dict[str, Any], is_adapter: bool) -> str:
    """Code that loads what is in the folder and summarises a dialogue with the prompt of training."""
    chat = PromptSettings.from_record(record).messages("{dialogue}")["prompt"]
    if chat[0]["role"] == "system":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not takes_role(tokenizer, tokenizer.chat_template, "system"):
            chat = [{"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}]
    location = record["arguments"].get("hub_model_id") or "."
    load = [f'path = "{location}"' + ("  # this folder" if location == "." else "")]
    if is_adapter:
        load += [
            f'model = AutoModelForCausalLM.from_pretrained("{record["base_model"]}", dtype="auto")',
            "model = PeftModel.from_pretrained(model, path).eval()",
        ]
    else:
        load += ['model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()']
    return "\n".join(
        [
            *(["from peft import PeftModel"] if is_adapter else []),
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            *load,
            "tokenizer = AutoTokenizer.from_pretrained(path)",
            'dialogue = """#Person1#: Is the printer broken again?',
            '#Person2#: Yes, I\'ll call someone."""',
            "messages = [",
            *(
                f'    {{"role": {_quoted(message["role"])}, "content": {_quoted(message["content"])}'
                + ('.replace("{dialogue}", dialogue)' if message is chat[-1] else "")
                + "},"
                for message in chat
            ),
            "]",
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt",',
            f"    {', '.join(f'{key}={_quoted(value)}' for key, value in TEMPLATE_KWARGS.items())},",
            ")",
            "output = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=128)",
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    )


def _prompt_text(record: dict[str, Any]) -> str:
    prompt = record["prompt"]
    text = (
        "Speakers were called `#Person1#`, `#Person2#`, ... in it. " if record["arguments"]["rename_speakers"] else ""
    )
    text += f"The instruction before the dialogue, or around it:\n\n{_fenced(prompt['instruction'])}"
    if prompt["system_prompt"]:
        text += f"\n\nThe system prompt:\n\n{_fenced(prompt['system_prompt'])}"
    return text


def _quoted(value: str | bool) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def _fenced(text: str) -> str:
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def _data_text(record: dict[str, Any]) -> str:
    arguments, data = record["arguments"], record["data"]
    read, rows = data["training"], data["rows_to_train_on"]
    dropped = sum(read["rows_dropped"].values()) + sum(rows["rows_dropped"].values())
    lines = [
        f"- {_link(str(arguments['dataset_name']), 'datasets/')}, split `{arguments['dataset_train_split']}`"
        + (f", revision `{arguments['dataset_revision']}`" if arguments.get("dataset_revision") else ""),
        f"- {rows['rows_kept']} rows (a dialogue and a summary) trained on, of {read['dialogues']} dialogues; "
        f"{dropped} rows left out, {rows['shortened']} dialogues shortened by whole turns to fit",
    ]
    if record.get("data_fingerprint"):
        lines.append(f"- fingerprint of ids, dialogues and summaries: `{record['data_fingerprint']}`")
    return "\n".join(lines)


def _hyperparameters(record: dict[str, Any]) -> list[tuple[str, ...]]:
    arguments = record["arguments"]
    names = [name for name in _HYPERPARAMETERS if arguments["use_peft"] or not name.startswith("lora_")]
    if not (arguments.get("load_in_4bit") or arguments.get("load_in_8bit")):
        names = [name for name in names if "bnb" not in name]
    names.remove("num_train_epochs" if (arguments.get("max_steps") or -1) > 0 else "max_steps")
    values = [(name, arguments.get(name)) for name in names]
    shown = {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in values}
    rows = [(f"`{name}`", shown[name]) for name, value in values if value is not None and value is not False]
    return [*rows, ("processes", str(record["hardware"]["processes"]))]


def _training_text(record: dict[str, Any]) -> str:
    metrics, hardware, versions = record["metrics"], record["hardware"], record["versions"]
    device = f"{len(hardware['gpus'])} x {hardware['gpus'][0]}" if hardware["gpus"] else "CPU"
    losses = ", ".join(
        f"{label} {metrics[key]:.3f}"
        for key, label in (("train_loss", "training loss"), ("eval_loss", "validation loss"))
        if key in metrics
    )
    packages = ", ".join(f"{name} {versions[name]}" for name in ("trl", "transformers", "peft", "torch"))
    merge = record.get("merge")
    text = f"{metrics.get('num_tokens', 0)} tokens on {device} in {record['seconds']:.0f} s; {losses}. {packages}."
    if merge:
        text += (
            f"\n\nThe adapter was merged in float32 into a freshly loaded base and saved in {merge['dtype']}. On "
            f"{merge['prompts']} prompts the logits (up to {merge['largest_logit']:.1f}) of the merged weights differ "
            f"from those of the adapter by at most {merge['merged_difference']:.1e}; as saved and loaded again by "
            f"{merge['saved_difference']:.1e}."
        )
    return text
