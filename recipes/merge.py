"""Merge an adapter into its base model: one ordinary model folder for transformers, vLLM, llama.cpp.

    python recipes/merge.py --adapter_path runs/quickstart/adapter

The base model is that of the training, unless --model_name_or_path names it.

Leaves `output_dir` (by default merged/ beside the adapter): weights in safetensors, tokenizer, chat template,
generation config, run.json and a model card; with `--gguf q8_0` also model-q8_0.gguf and a Modelfile for Ollama.
The base is loaded unquantised in float32 on the CPU (4 bytes of memory a parameter), whatever the adapter was trained
on. The logits of the merged model are compared with those of the adapter, in memory and as loaded from disk.
"""

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError, files, modeling, provenance
from dialogsum_sft.arguments import DataArguments, MergeArguments
from dialogsum_sft.cli import parse, run
from dialogsum_sft.data import prompts
from dialogsum_sft.data.examples import load_examples
from dialogsum_sft.publish import gguf_export, hub, model_card, modelfile
from dialogsum_sft.token_ids import greedy_config
from dialogsum_sft.training import checkpoints
from dialogsum_sft.training.record import use_defaults

import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from trl import ModelConfig, ScriptArguments


def main() -> None:
    started = time.time()
    (args,) = parse((MergeArguments,))
    console = Console(soft_wrap=True)
    if args.adapter_path is None:
        raise InputError("no adapter: give --adapter_path (what recipes/sft.py left in adapter/)")
    if args.model_name_or_path is None:  # that of the training
        args.model_name_or_path = use_defaults({"adapter_path": args.adapter_path}).get("model_name_or_path")
    if args.model_name_or_path is None:
        raise InputError("no base model: give --model_name_or_path")
    adapter_path, base_model = Path(args.adapter_path), modeling.public_name(str(args.model_name_or_path))
    output_dir = Path(args.output_dir) if args.output_dir else adapter_path.parent / "merged"
    name = output_dir.resolve().name
    check_output(output_dir)
    modeling.check_adapter(args.adapter_path, str(args.model_name_or_path), any_base=args.any_base)
    repo = hub.create_repo(args.hub_model_id or name, args.hub_private_repo) if args.push_to_hub else None

    # 1. Load the base in float32 and the adapter on it, and compute their logits on real rows
    model_args = ModelConfig(
        model_name_or_path=args.model_name_or_path, model_revision=args.model_revision, dtype="float32"
    )
    trust = args.trust_remote_code
    tokenizer = modeling.load_tokenizer(model_args, adapter_path=args.adapter_path, trust_remote_code=trust)
    stop_ids = prompts.stop_token_ids(tokenizer, modeling.load_generation_config(model_args, trust_remote_code=trust))
    run_json = adapter_path / "run.json"
    record = json.loads(run_json.read_text(encoding="utf-8")) if run_json.is_file() else {}
    rows = encode_rows(record, tokenizer, stop_ids, args.num_prompts)
    model = load_adapted(model_args, adapter_path, trust)
    if args.gguf:
        gguf_export.check(model.config, tokenizer)
    of_adapter = logits(model, rows)

    # 2. Merge, and compare the logits
    merged: PreTrainedModel = model.merge_and_unload()
    del model
    largest = max(float(row.abs().max()) for row in of_adapter)
    allowed = args.max_difference * largest  # float32 itself is good for about 1e-6 of the largest logit
    merged_difference = difference(of_adapter, logits(merged, rows))
    if not merged_difference <= allowed:
        raise InputError(
            f"the logits of the merged model differ from the adapter's by {merged_difference:.1e}, and {allowed:.1e} "
            f"is allowed ({args.max_difference:.0e} of the largest, --max_difference): nothing is written"
        )

    # 3. Write the merged model to a folder beside, load it from there, and compare again
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_model(merged, tokenizer, stop_ids, partial, args)
    rounded = logits(merged.float(), rows)
    del merged  # the next line needs its memory
    written = AutoModelForCausalLM.from_pretrained(partial, dtype=torch.float32, trust_remote_code=trust)
    of_written = logits(written, rows)
    saved_difference = difference(of_adapter, of_written)
    if not (reload_difference := difference(rounded, of_written)) <= allowed:
        shutil.rmtree(partial)
        raise InputError(
            f"the model as written gives other logits than in memory, by {reload_difference:.1e}: nothing is kept"
        )
    del written

    # 4. Write a GGUF file too where one is asked for, and compare again
    notes = export_gguf(partial, name, args.gguf, tokenizer, stop_ids, record, of_adapter, rows) if args.gguf else []

    # 5. Write the record and the model card, and put the folder in its place
    positions = sum(map(len, rows))
    same = same_tokens(of_adapter, of_written)
    merge = {
        "adapter": files.public(args.adapter_path),
        "dtype": args.dtype,
        "prompts": len(rows),
        "largest_logit": largest,
        "merged_difference": merged_difference,
        "saved_difference": saved_difference,
        "same_next_token": same,
        "gguf": args.gguf,
        "versions": provenance.versions(),
        "seconds": round(time.time() - started, 1),
    }
    record = {"format": files.FORMAT, "base_model": base_model} | record | {"merge": merge}
    files.write_json(partial / "run.json", record)
    if model_card.can_be_written(partial):
        model_card.write(partial, scores_of=adapter_path)
    files.replace_folder(partial, output_dir)
    console.print(
        f"{len(rows)} prompts, {positions} positions, logits up to {largest:.1f}: merged and adapter differ by at "
        f"most {merged_difference:.1e} in float32; saved in {args.dtype} and loaded again by {saved_difference:.1e}, "
        f"with {same:.1%} of the likeliest next tokens the same"
    )
    for note in notes:
        console.print(note)
    console.print(f"{output_dir}: {base_model} with {args.adapter_path} merged in")
    if repo is not None:
        console.print("pushed: " + hub.upload(output_dir, repo, f"{name}, merged"))


def check_output(output_dir: Path) -> None:
    """Raise InputError where `output_dir` has files that are not of an earlier merged model, which is replaced."""
    record = output_dir / "run.json"
    merged = record.is_file() and "merge" in json.loads(record.read_text(encoding="utf-8"))
    if output_dir.exists() and not merged and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputError(f"{output_dir} is not a merged model: give another --output_dir")


def encode_rows(
    record: dict[str, Any], tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], count: int
) -> list[list[int]]:
    """Token ids of bundled dialogues with their summaries, with the prompt that the adapter's run.json records."""
    settings = prompts.PromptSettings.from_record(record) if "prompt" in record else prompts.PromptSettings()
    examples = load_examples(ScriptArguments(dataset_name="sample"), DataArguments(), "test", count)
    return [
        prompts.encode(tokenizer, row["dialogue"], row["references"][0], stop_ids, settings)["input_ids"]
        for row in examples.rows
    ]


def load_adapted(model_args: ModelConfig, adapter_path: Path, trust_remote_code: bool) -> PeftModel:
    """The base with the adapter, every weight of which is verified to be on the base as it is in the file."""
    base = modeling.load_model(model_args, trust_remote_code=trust_remote_code)
    if getattr(base.config, "quantization_config", None) is not None:
        raise InputError(
            f"{model_args.model_name_or_path} is quantised itself, and merging would round the adapter away: name the "
            "unquantised model that it was made from"
        )
    checkpoints.verify_adapter(adapter_path)
    model = modeling.load_adapter(base, str(adapter_path))
    shapes = checkpoints.weight_shapes(model) or {}
    checkpoints.verify_adapter(adapter_path, shapes)
    return model


def write_model(
    merged: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    folder: Path,
    args: MergeArguments,
) -> None:
    """Cast the weights to `dtype` and save them with the tokenizer and a greedy generation config."""
    for parameter in merged.parameters():  # not buffers: rotary frequencies stay in float32
        parameter.data = parameter.data.to(getattr(torch, args.dtype))
    merged.config.use_cache = True
    # A chat model's own generation config may sample, or stop at fewer tokens than were learned.
    rows = merged.get_input_embeddings().weight.shape[0]
    merged.generation_config = greedy_config(merged.config, rows, tokenizer, stop_ids)
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if hasattr(merged.config, "vision_config"):  # Gemma 3's: vLLM needs these files for text too
        for name in ("preprocessor_config.json", "processor_config.json"):
            with contextlib.suppress(OSError):  # one of them is not there
                shutil.copy(cached_file(args.model_name_or_path, name, revision=args.model_revision), folder)


def export_gguf(
    folder: Path,
    name: str,
    kind: str,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    record: dict[str, Any],
    of_adapter: list[torch.Tensor],
    rows: list[list[int]],
) -> list[str]:
    """Write the model in `folder` as a GGUF file with a Modelfile beside it; returns a line about each."""
    settings = prompts.PromptSettings.from_record(record) if "prompt" in record else prompts.PromptSettings()
    add_bos = gguf_export.adds_bos(tokenizer, rows[0])
    path = gguf_export.write(folder, name, kind, tokenizer, stop_ids, add_bos)
    notes = [
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB; transformers does not read this kind to compare logits"
    ]
    if (model := gguf_export.load(path)) is not None:
        of_gguf = logits(model, rows)
        notes = [
            f"{path.name}: {path.stat().st_size / 1e6:.1f} MB; logits differ from the adapter's by at most "
            f"{difference(of_adapter, of_gguf):.1e}, {same_tokens(of_adapter, of_gguf):.1%} of the likeliest next "
            "tokens are the same"
        ]
    try:
        dialogues = load_examples(ScriptArguments(dataset_name="sample"), DataArguments(), "test", 20).rows.to_list()
        text = modelfile.write(path.name, tokenizer, settings, stop_ids, modelfile.lengths(record), add_bos=add_bos)
        count = modelfile.check(tokenizer, settings, dialogues)
    except InputError as error:
        return [*notes, str(error)]
    files.write_text(folder / "Modelfile", text)
    return [*notes, f"Modelfile: the prompts of {count} bundled dialogues have the token ids of the training"]


def logits(model: PreTrainedModel | PeftModel, rows: list[list[int]]) -> list[torch.Tensor]:
    """Logits of each row of token ids, (positions, vocabulary) in float32; a row at a time, so without padding."""
    model.eval()
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([row])).logits[0].float() for row in rows]


def same_tokens(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The share of positions with the same likeliest next token."""
    pairs = list(zip(one, other, strict=True))
    return sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs) / sum(len(a) for a, _ in pairs)


def difference(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    run(main)
