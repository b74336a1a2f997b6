"""The options that TRL and transformers lack."""

import json
from dataclasses import dataclass, field
from typing import Any

from dialogsum_sft import InputError

from transformers.hf_argparser import HfArg

_ROUGE_TOKENIZER = "default: rouge_score's, for English; unicode: for other scripts."

_ANY_BASE = "Take the adapter on a base of another name than its own; shapes are still checked."


@dataclass
class DialogueArguments:
    """How dialogues are read and prompted."""

    dialogue_column: str | None = HfArg(
        default=None, help="Column with the dialogue: text, or a list of turns. Default: found by its name."
    )
    id_column: str | None = HfArg(
        default=None, help="Column with the id. Default: id or fname if there is one, else the row number."
    )
    dialogue_format: str | None = HfArg(
        default=None,
        help="How dialogues are written as text. labels: lines 'Name: ...'; timestamps: exported chats and "
        "transcripts; subtitles: WebVTT, SRT; inline: all turns on one line; lines: each line is a turn. Default: "
        "detected in the first rows.",
        metadata={"choices": ["labels", "timestamps", "subtitles", "inline", "lines"]},
    )
    speaker_key: str | None = HfArg(default=None, help="Key of the speaker in a list of turns. Default: a usual one.")
    text_key: str | None = HfArg(default=None, help="Key of the text in a list of turns. Default: a usual one.")
    speaker_column: str | None = HfArg(
        default=None, help="Column with the speakers, where the dialogue column is a list of texts."
    )
    drop_times: bool = HfArg(
        default=False,
        help="Leave the time stamps of exported chats and transcripts out: each turn with one becomes 'Name: text'.",
    )
    rename_speakers: bool = HfArg(
        default=False, help="Replace speakers' names by #Person1#, ... in prompts, and restore them in summaries."
    )
    instruction: str | None = HfArg(
        default=None,
        help="Text before the dialogue in the user's turn, or around it where it contains {dialogue}. Default: "
        "'Summarize the following dialogue in one or two sentences. Name the speakers as the dialogue does.'",
    )
    system_prompt: str | None = HfArg(
        default=None, help="System message; the head of the user's turn where the chat template has no system role."
    )


@dataclass
class DataArguments(DialogueArguments):
    """The dataset and the prompt, for training and evaluation."""

    dataset_revision: str | None = HfArg(
        default=None, help="Commit, tag or branch of a dataset on the hub; pin it to publish a score."
    )
    summary_columns: list[str] | None = HfArg(
        default=None,
        help="Columns with reference summaries. Default: summary, or summary1, summary2, ..., or similar.",
    )
    topic_column: str | None = HfArg(default=None, help="Column with a topic, to score topics apart. Default: topic.")
    summary_join: str | None = HfArg(
        default=None, help="Text between the sentences of a summary that is given as a list. Default: a space."
    )
    allow_dropped_rows: bool = HfArg(
        default=False, help="Continue when more than 1%% of the rows cannot be used; they are counted."
    )
    max_eval_samples: int | None = HfArg(default=None, help="Use only the first N dialogues of the evaluation split.")
    train_file: str | None = HfArg(
        default=None,
        help="Training split in a file of its own (or a glob or folder), in place of --dataset_name. A name without a "
        "path may be that of a file in the folder --dataset_name.",
    )
    validation_file: str | None = HfArg(default=None, help="The same for the split evaluated during training.")
    test_file: str | None = HfArg(
        default=None, help="The same for the split evaluated by recipes/eval.py. Default: --validation_file."
    )
    dialogue_file: str | None = HfArg(
        default=None,
        help="File with the dialogues of all splits, where the other files have summaries without them; the id says "
        "which belong together.",
    )
    validation_share: float | None = HfArg(
        default=None,
        help="Hold out this share of the training split's dialogues, such as 0.1, to evaluate on. The choice depends "
        "on the dialogues and the seed alone.",
    )
    validation_seed: int | None = HfArg(default=None, help="Seed of --validation_share. Default: --seed.")


@dataclass
class TrainArguments:
    """Options of recipes/sft.py alone."""

    max_train_samples: int | None = HfArg(default=None, help="Use only the first N dialogues of the training split.")
    swap_speakers: bool = HfArg(
        default=False,
        help="Train on each row once more with its first two speakers exchanged, in the summary too.",
    )
    eval_generate_samples: int = HfArg(
        default=0,
        help="At every evaluation, summarise the first N validation dialogues and score them: rouge1_mean, "
        "rouge2_mean, rougeL_mean, unfinished (also for --metric_for_best_model). 0: only the loss.",
    )
    eval_max_new_tokens: int = HfArg(default=128, help="Longest of these summaries, in tokens.")
    eval_max_batch_tokens: int = HfArg(
        default=16384, help="Size of their batches in tokens: rows times (longest prompt + eval_max_new_tokens)."
    )
    eval_rouge_tokenizer: str = HfArg(
        default="default", help=_ROUGE_TOKENIZER, metadata={"choices": ["default", "unicode"]}
    )
    early_stopping_patience: int | None = HfArg(
        default=None, help="Stop after N evaluations in a row without a better --metric_for_best_model."
    )
    force_resume: bool = HfArg(
        default=False, help="Resume from a checkpoint although options have changed, with their new values."
    )
    overwrite_output_dir: bool = HfArg(
        default=False,
        help="Start anew in a folder that holds another run or a finished one: its checkpoints and its adapter or "
        "model are set aside.",
    )
    global_batch_size: int | None = HfArg(
        default=None,
        help="Rows of a step over all processes: gradient_accumulation_steps follows from it, so that a run is the "
        "same on one GPU and on eight.",
    )


@dataclass
class GenerationArguments:
    """The engine and its decoding."""

    adapter_path: str | None = HfArg(
        default=None,
        help="Adapter to generate with: adapter/ of a run of recipes/sft.py. Options not given are then those of the "
        "training.",
    )
    max_new_tokens: int = HfArg(default=128, help="Longest summary, in tokens.")
    max_length: int | None = HfArg(
        default=None,
        help="Longest prompt and summary together, in tokens; a longer dialogue loses turns. Default: the model's "
        "number of positions.",
    )
    long: str = field(default="shorten", init=False)  # not an option here, but of LongArguments
    long_overlap: float = field(default=2.0, init=False)
    strip_preamble: bool = field(default=False, init=False)  # of EvalArguments
    max_batch_tokens: int = HfArg(
        default=16384, help="Size of a generation batch in tokens: rows times (longest prompt + max_new_tokens)."
    )
    generation_kwargs: str | None = HfArg(
        default=None, help='More GenerationConfig options as JSON, such as {"num_beams": 4}.'
    )
    num_candidates: int = HfArg(
        default=1,
        help="Sample N summaries and keep the one nearest to the others by ROUGE-1 (minimum Bayes risk), at "
        "temperature 0.7 unless --generation_kwargs say otherwise.",
    )
    engine: str = HfArg(
        default="transformers",
        help="transformers; vllm: its offline engine; openai: an endpoint that answers /chat/completions.",
        metadata={"choices": ["transformers", "vllm", "openai"]},
    )
    vllm_kwargs: str | None = HfArg(
        default=None, help='More arguments of vllm.LLM as JSON, such as {"tensor_parallel_size": 2}.'
    )
    base_url: str | None = HfArg(
        default=None,
        help="Endpoint of --engine openai, up to /v1, or with /chat/completions; it may end in ?api-version=.... "
        "Its key is read from OPENAI_API_KEY.",
    )
    extra_body: str | None = HfArg(
        default=None,
        help='More fields of each request to the endpoint as JSON, such as {"reasoning_effort": "low"}; null leaves '
        'a field out, as in {"temperature": null}.',
    )
    served_model_name: str | None = HfArg(
        default=None, help="Name of the model at the endpoint. Default: --model_name_or_path."
    )
    concurrency: int = HfArg(default=8, help="How many requests run at the endpoint at once.")
    request_timeout: float = HfArg(default=120.0, help="Seconds that one request may take.")
    seed: int = HfArg(default=42, help="Seed of sampling and of the bootstrap intervals.")
    allow_other_prompt: bool = HfArg(
        default=False, help="Use an adapter with another prompt than it was trained with."
    )
    any_base: bool = HfArg(default=False, help=_ANY_BASE)
    trust_remote_code: bool = HfArg(default=False, help="Whether the model may run code of its own.")


@dataclass
class LongArguments(GenerationArguments):
    """The same, and how dialogues are summarised that do not fit into a prompt."""

    long: str = HfArg(
        default="shorten",
        help="How a dialogue that does not fit into a prompt is summarised. shorten: without its middle, as in "
        "training; map_reduce: windows of whole turns, then their summaries; refine: each window after the summary "
        "of those before.",
        metadata={"choices": ["shorten", "map_reduce", "refine"]},
    )
    long_overlap: float = HfArg(
        default=2.0,
        help="How many turns a window repeats of the one before; below 1 the share of its turns, such as 0.1.",
    )


@dataclass
class EvalArguments(LongArguments):
    """Options of recipes/eval.py alone."""

    output_dir: str = HfArg(
        default="runs/eval",
        help="Folder for eval-base/, eval-tuned/ and report.html. Default with an adapter: the folder of its run.",
    )
    evaluate_base: bool = HfArg(default=True, help="Whether to evaluate the base model too when an adapter is given.")
    rouge_tokenizer: str = HfArg(
        default="default", help=_ROUGE_TOKENIZER, metadata={"choices": ["default", "unicode"]}
    )
    num_examples: int = HfArg(default=3, help="How many dialogues to print with their summaries.")
    predictions_file: str | None = HfArg(
        default=None,
        help="Score these summaries, without a model: a predictions.jsonl, which has its references, or with "
        "--dataset_name a file of any program: JSON, a table, or text with a summary per line.",
    )
    prediction_column: str | None = HfArg(
        default=None,
        help="Column of --predictions_file with the summaries; nested ones with dots. Default: found by its name.",
    )
    strip_preamble: bool = HfArg(
        default=False,
        help="Take 'Here is a summary:', headings and fences off before scoring. They are counted in any case.",
    )
    overwrite_output_dir: bool = HfArg(
        default=False, help="Evaluate anew in a folder that holds another evaluation, which is set aside."
    )
    bertscore: str | None = HfArg(
        default=None,
        help="Encoder for BERTScore beside ROUGE: a folder, or a model in the hub's cache. Default: none.",
    )
    bertscore_layer: int | None = HfArg(
        default=None, help="Its layer to compare. Default: 17 of 24 layers, and in proportion for other depths."
    )
    likelihood_model: str | None = HfArg(
        default=None,
        help="Model that says how likely each summary is given its dialogue, without references: a hub id, a folder, "
        "or 'embedded'. Default: none, or the base of --likelihood_adapter.",
    )
    likelihood_adapter: str | None = HfArg(
        default=None, help="Its adapter: adapter/ of a run of recipes/sft.py, whose prompt and lengths are used."
    )
    likelihood_revision: str | None = HfArg(default=None, help="Commit, tag or branch of that model on the hub.")
    likelihood_dtype: str | None = HfArg(
        default=None,
        help="Dtype of its weights. Default: that of its training, else by the hardware.",
        metadata={"choices": ["bfloat16", "float16", "float32"]},
    )
    likelihood_load_in_4bit: bool | None = HfArg(
        default=None, help="Quantise it to 4 bits. Default: as in its training."
    )


@dataclass
class InputArguments(GenerationArguments):
    """Dialogues without summaries, of recipes/summarize.py, recipes/label.py and recipes/demo.py."""

    input_files: list[str] | None = HfArg(
        default=None,
        help="Files, globs and folders with dialogues, also without this option's name: texts with a dialogue each "
        "(exported chats, transcripts, .vtt, .srt), tables with one a row (.jsonl, .json, .csv, .tsv, .parquet). "
        "'-' or nothing: standard input.",
    )
    dataset_name: str | None = HfArg(
        default=None, help="In place of files: a dataset on the hub, a folder with a file for each split, or 'sample'."
    )
    dataset_split: str = HfArg(default="test", help="Its split, or a slice such as test[:10].")


@dataclass
class SummarizeArguments(LongArguments, InputArguments):
    """Options of recipes/summarize.py alone."""

    follow: str | None = HfArg(
        default=None,
        help="In place of files: a folder whose files are summarised as they appear, until Ctrl-C. Each summary is "
        "NAME.summary.txt beside its file (or .jsonl, .csv, .md, by --output_format), or is added to --output_file.",
    )
    settle_seconds: float = HfArg(
        default=3.0, help="With --follow: how long a file must not change before it is summarised."
    )
    output_file: str | None = HfArg(
        default=None,
        help="File for the summaries, written when all are made; started again after an interruption, only those that "
        "are missing are made. Default: standard output, each as it is made.",
    )
    output_format: str | None = HfArg(
        default=None,
        help="text: a line for each summary; jsonl and csv: beside the columns of the input, with token counts and "
        "what the dialogue does not support; markdown. Default: by the name of --output_file, else text.",
        metadata={"choices": ["text", "jsonl", "csv", "markdown"]},
    )


@dataclass
class LabelArguments(InputArguments):
    """Options of recipes/label.py alone."""

    dataset_split: str = HfArg(default="train", help="Split of --dataset_name, or a slice such as train[:10].")
    output_dir: str = HfArg(
        default="runs/labels",
        help="Folder for train.jsonl, validation.jsonl, set_aside.jsonl, sheet.csv, sheet.html and label.json.",
    )
    instruction_name: str | None = HfArg(
        default=None,
        help="Instruction that the summaries are written under, in place of --instruction: short (one or two "
        "sentences), paragraph, outcome (what was asked, decided, and is to be done). Default: short.",
        metadata={"choices": ["short", "paragraph", "outcome"]},
    )
    validation_share: float = HfArg(
        default=0.1,
        help="Share of the labelled dialogues that goes to validation.jsonl; 0: none. The choice depends on the "
        "dialogues and --seed alone.",
    )
    sheet_size: int = HfArg(
        default=50,
        help="How many summaries the sheet has for a person to accept or correct, up to half of them set aside.",
    )
    max_requests: int | None = HfArg(
        default=None,
        help="Stop after N summaries (each of --num_candidates counts) with exit status 75; the same command goes on.",
    )
    accept: str | None = HfArg(
        default=None,
        help="Take the decisions of this edited sheet (.csv) into --output_dir, without a model.",
    )


@dataclass
class DemoArguments(InputArguments):
    """Options of recipes/demo.py alone."""

    dataset_name: str | None = HfArg(
        default="sample", help="Where there are no files: the dataset with the dialogues to choose from."
    )
    port: int = HfArg(default=7860, help="Port of the page at 127.0.0.1; 0: any free one.")
    max_characters: int = HfArg(default=60_000, help="Longest dialogue that the page takes.")
    max_waiting: int = HfArg(default=8, help="How many requests may wait while another is served.")
    max_per_minute: int = HfArg(default=20, help="How many requests the page takes in a minute.")


@dataclass
class JudgeArguments:
    """A judge of recipes/compare.py: a model behind an endpoint."""

    judge_url: str | None = HfArg(
        default=None,
        help="Endpoint of a model that judges the summaries, up to /v1, or with /chat/completions. Its key is read "
        "from OPENAI_API_KEY.",
    )
    judge_model: str | None = HfArg(default=None, help="Name of that model.")
    judge_mode: str | None = HfArg(
        default=None,
        help="pairwise: each run against the first, both orders; single: faithfulness, completeness and conciseness "
        "of each run, sentence by sentence; both. Default: pairwise, of one run single.",
        metadata={"choices": ["pairwise", "single", "both"]},
    )
    judge_max_new_tokens: int = HfArg(default=1024, help="Longest answer of the judge, in tokens.")
    judge_extra_body: str | None = HfArg(
        default=None,
        help='More fields of each request to the judge as JSON, such as {"reasoning_effort": "low"}; null leaves a '
        'field out, as in {"temperature": null}.',
    )
    judge_concurrency: int = HfArg(default=8, help="How many requests run at the judge at once.")
    judge_timeout: float = HfArg(default=120.0, help="Seconds that one request to the judge may take.")
    max_requests: int | None = HfArg(
        default=None, help="Stop after N requests to the judge with exit status 75; the same command goes on."
    )


@dataclass
class MergeArguments:
    """Options of recipes/merge.py, which needs none of ModelConfig's: nothing is quantised or trained there."""

    model_name_or_path: str | None = HfArg(
        default=None, help="Base model of the adapter, unquantised: a hub id, a folder, or 'embedded'."
    )
    model_revision: str | None = HfArg(default=None, help="Commit, tag or branch of the base model.")
    trust_remote_code: bool = HfArg(default=False, help="Whether the base model may run code of its own.")
    adapter_path: str | None = HfArg(default=None, help="Adapter to merge: adapter/ of a run of recipes/sft.py.")
    any_base: bool = HfArg(default=False, help=_ANY_BASE)
    output_dir: str | None = HfArg(default=None, help="Default: merged/ beside the adapter.")
    dtype: str = HfArg(
        default="bfloat16",
        help="Dtype of the merged weights as saved.",
        metadata={"choices": ["bfloat16", "float16", "float32"]},
    )
    gguf: str | None = HfArg(
        default=None,
        help="Also write model-TYPE.gguf for llama.cpp, and a Modelfile for Ollama. Needs the package gguf.",
        metadata={"choices": ["f32", "f16", "bf16", "q8_0"]},
    )
    max_difference: float = HfArg(
        default=1e-4,
        help="How far a logit of the merged weights may be from the adapter's in float32, as a share of the largest "
        "logit.",
    )
    num_prompts: int = HfArg(default=4, help="How many bundled dialogues to compare logits on.")
    push_to_hub: bool = HfArg(default=False, help="Push the merged model; the token is read from HF_TOKEN.")
    hub_model_id: str | None = HfArg(default=None, help="Name to push to. Default: the name of the output folder.")
    hub_private_repo: bool | None = HfArg(default=None, help="Whether a new repository is private.")


@dataclass
class SweepArguments:
    """Options of recipes/sweep.py, which needs none of a training's: those are in --base, --options and --search."""

    base: str | None = HfArg(
        default=None,
        help="Config of recipes/sft.py from which every trial starts: a YAML file, or the name of one in the package.",
    )
    options: str | None = HfArg(default=None, help="Mapping of options that all trials have, over those of --base.")
    search: str | None = HfArg(
        default=None,
        help="Mapping of the options to search: a list of values each, or a range {low, high, log, step, count}. A "
        "value that is a mapping sets several options; {values: [...], when: {option: value}} is a condition.",
    )
    method: str = HfArg(
        default="grid",
        help="grid: all combinations; random: --trials of them; tpe: each after the scores so far.",
        metadata={"choices": ["grid", "random", "tpe"]},
    )
    trials: int | None = HfArg(
        default=None,
        help="How many trials; it may be raised later. Default: the whole grid, 20 by random or tpe.",
    )
    objective: str = HfArg(
        default="loss",
        help="What is chosen by, on the validation split: its loss, or ROUGE of summaries that recipes/eval.py makes.",
        metadata={"choices": ["loss", "rouge1", "rouge2", "rougeL"]},
    )
    eval_options: str | None = HfArg(
        default=None, help="Mapping of options of recipes/eval.py for ROUGE, such as {num_candidates: 4}."
    )
    pruner: str = HfArg(
        default="none",
        help="Ends trials early by their evaluations in training. successive_halving: at evaluations 1, 2, 4, ... (by "
        "--reduction_factor) the best share goes on; hyperband; median: those below the median end.",
        metadata={"choices": ["none", "successive_halving", "hyperband", "median"]},
    )
    reduction_factor: int = HfArg(default=2, help="Of successive halving and Hyperband: one trial in N goes on.")
    output_dir: str = HfArg(
        default="runs/sweep",
        help="Folder for trial-001/, ..., study.db, sweep.json, sweep.csv, sweep.md, report.html and best.yaml. "
        "Started again there, a sweep goes on; several at once share its trials.",
    )
    workers: int = HfArg(default=1, help="How many trials run at once, each on GPUs of its own where there are any.")
    gpus_per_trial: int = HfArg(default=1, help="GPUs of a trial; with several it is started by accelerate (ddp).")
    retry_failed: bool = HfArg(default=False, help="Begin trials that failed once more, in their folders.")
    seed: int = HfArg(default=42, help="Seed of the draws of random and tpe; that of a training is an option.")


def json_option(option: str, text: str | None) -> dict[str, Any]:
    """The JSON object of a command-line option. Raises InputError where it is none."""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f'--{option} must be a JSON object such as {{"num_beams": 4}}')
    return value
