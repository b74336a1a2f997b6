"""The options that TRL and transformers lack."""

from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """What the dataset looks like and how a dialogue is put to the model; training and evaluation share these."""

    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, tag or branch of a dataset on the hub; pin it to publish a number."}
    )
    dialogue_column: str | None = field(
        default=None,
        metadata={"help": "Column with the dialogue: text, or a list of turns. Default: known by its name."},
    )
    summary_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns with reference summaries. Default: summary, or summary1, summary2, ..., or alike."},
    )
    id_column: str | None = field(
        default=None,
        metadata={"help": "Column with the id. Default: id or fname if there is one, else the row number."},
    )
    topic_column: str | None = field(
        default=None, metadata={"help": "Column with a topic, by which scores can be told apart. Default: topic."}
    )
    allow_dropped_rows: bool = field(
        default=False,
        metadata={"help": "Go on when more than 1%% of the rows cannot be used; they are counted."},
    )
    rename_speakers: bool = field(
        default=False,
        metadata={"help": "Show the model #Person1#, ... for the speakers' names; summaries get them back."},
    )
    instruction: str | None = field(
        default=None,
        metadata={
            "help": "Put before the dialogue in the user's turn, or around it where {dialogue} stands. Default: "
            "'Summarize the following dialogue in one or two sentences. Name the speakers as the dialogue does.'"
        },
    )
    system_prompt: str | None = field(
        default=None,
        metadata={"help": "System message; the head of the user's turn where the chat template takes no system role."},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many dialogues of the evaluation split."}
    )


@dataclass
class TrainArguments:
    """What only the training recipe needs."""

    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many dialogues of the training split."}
    )
    swap_speakers: bool = field(
        default=False,
        metadata={"help": "Train on each row once more with its first two speakers exchanged, in the summary too."},
    )
    eval_generate_samples: int = field(
        default=0,
        metadata={
            "help": "At every evaluation, summarise the first so many validation dialogues and score them: "
            "rouge1_mean, rouge2_mean, rougeL_mean, unfinished (for --metric_for_best_model too). 0: only the loss."
        },
    )
    eval_max_new_tokens: int = field(default=128, metadata={"help": "Longest of these summaries, in tokens."})
    eval_max_batch_tokens: int = field(
        default=16384,
        metadata={"help": "Size of their batches in tokens: rows times (longest prompt + eval_max_new_tokens)."},
    )
    eval_rouge_tokenizer: str = field(
        default="default",
        metadata={
            "help": "default: rouge_score's, for English; unicode: for other scripts.",
            "choices": ["default", "unicode"],
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations in a row without a better --metric_for_best_model."},
    )
    force_resume: bool = field(
        default=False,
        metadata={"help": "Go on from a checkpoint though options were changed since, with their new values."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Begin anew in a folder that holds another run or a finished one: its checkpoints and its adapter "
            "or model are set aside."
        },
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows of a step, all processes together: gradient_accumulation_steps follows from it, so that a "
            "run is the same on one GPU and on eight."
        },
    )


@dataclass
class EvalArguments:
    """What only the evaluation recipe needs."""

    output_dir: str = field(
        default="runs/eval",
        metadata={"help": "Folder for eval-base/ and, with an adapter, eval-tuned/ (eval-served/ of an endpoint)."},
    )
    adapter_path: str | None = field(
        default=None, metadata={"help": "Adapter to evaluate beside its base: what recipes/sft.py left in adapter/."}
    )
    evaluate_base: bool = field(
        default=True, metadata={"help": "Whether to evaluate the base model too when an adapter is given."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest summary, in tokens."})
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Longest prompt and summary together, in tokens; a longer dialogue loses turns. "
            "Default: what the model can hold."
        },
    )
    rouge_tokenizer: str = field(
        default="default",
        metadata={
            "help": "default: rouge_score's, for English; unicode: for other scripts.",
            "choices": ["default", "unicode"],
        },
    )
    max_batch_tokens: int = field(
        default=16384,
        metadata={"help": "Size of a generation batch in tokens: rows times (longest prompt + max_new_tokens)."},
    )
    generation_kwargs: str | None = field(
        default=None, metadata={"help": 'More GenerationConfig options as JSON, such as {"num_beams": 4}.'}
    )
    num_candidates: int = field(
        default=1,
        metadata={
            "help": "Draw so many summaries and keep the one nearest to the others by ROUGE-1 (minimum Bayes risk); "
            "at temperature 0.7 unless --generation_kwargs say otherwise."
        },
    )
    engine: str = field(
        default="transformers",
        metadata={
            "help": "transformers; vllm: its offline engine; openai: an endpoint that answers /chat/completions.",
            "choices": ["transformers", "vllm", "openai"],
        },
    )
    vllm_kwargs: str | None = field(
        default=None, metadata={"help": 'More arguments of vllm.LLM as JSON, such as {"tensor_parallel_size": 2}.'}
    )
    base_url: str | None = field(
        default=None,
        metadata={"help": "Endpoint of --engine openai, up to /v1; its key is taken from OPENAI_API_KEY."},
    )
    served_model_name: str | None = field(
        default=None, metadata={"help": "Name of the model at the endpoint. Default: --model_name_or_path."}
    )
    concurrency: int = field(default=8, metadata={"help": "How many requests the endpoint gets at once."})
    request_timeout: float = field(default=120.0, metadata={"help": "Seconds that one request may take."})
    seed: int = field(default=42, metadata={"help": "Seed of sampling and of the bootstrap intervals."})
    num_examples: int = field(default=3, metadata={"help": "How many dialogues to print with their summaries."})
    allow_other_prompt: bool = field(
        default=False,
        metadata={"help": "Evaluate an adapter behind another prompt than it was trained behind."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether the model may run code of its own."})
    predictions_file: str | None = field(
        default=None,
        metadata={
            "help": "Score these summaries, with no model: a predictions.jsonl, which brings its references, or with "
            "--dataset_name any .jsonl (prediction, id) or a text file with a summary a line."
        },
    )
    bertscore: str | None = field(
        default=None,
        metadata={
            "help": "Encoder for BERTScore beside ROUGE: a folder, or a model in the hub's cache. Default: none."
        },
    )
    bertscore_layer: int | None = field(
        default=None, metadata={"help": "Its layer to compare. Default: 17 of 24, and in that proportion."}
    )


@dataclass
class MergeArguments:
    """The merging recipe's; it does not take ModelConfig's, as nothing is quantised or trained there."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Base model of the adapter, unquantised: a hub id, a folder, or 'embedded'."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch of the base model."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether the base model may run code of its own."}
    )
    adapter_path: str | None = field(
        default=None, metadata={"help": "Adapter to merge: what recipes/sft.py left in adapter/."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Default: merged/ beside the adapter."})
    dtype: str = field(
        default="bfloat16",
        metadata={"help": "What the merged weights are saved in.", "choices": ["bfloat16", "float16", "float32"]},
    )
    max_difference: float = field(
        default=1e-4,
        metadata={
            "help": "How far a logit of the merged weights may be from the adapter's in float32, as a share of the "
            "largest logit."
        },
    )
    num_prompts: int = field(default=4, metadata={"help": "How many bundled dialogues to compare logits on."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the merged model; the token is HF_TOKEN's."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Name to push to. Default: the name of the output folder."}
    )
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})
