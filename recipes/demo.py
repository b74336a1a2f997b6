"""A page in the browser: paste a dialogue, and the base model and the tuned one summarise it side by side.

    python recipes/demo.py --adapter_path runs/quickstart/adapter
    python recipes/demo.py chats/*.txt --adapter_path runs/quickstart/adapter --port 8000
    python recipes/demo.py --engine openai --base_url http://localhost:8000/v1 --served_model_name ...

Only this machine can open it. Needs gradio: pip install gradio
"""

from pathlib import Path

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DemoArguments, DialogueArguments
from dialogsum_sft.cli import note, parse, run
from dialogsum_sft.data.inputs import read_dataset, read_inputs
from dialogsum_sft.demo import load_page
from dialogsum_sft.demo.answers import Answers
from dialogsum_sft.demo.examples import examples_of
from dialogsum_sft.demo.waiting import Waiting
from dialogsum_sft.modeling import public_name
from dialogsum_sft.summarizer import Summarizer
from dialogsum_sft.training.record import trained_columns, use_defaults

from trl import ModelConfig


def main() -> None:
    # 1. Arguments
    model_args, dialogue_args, args = parse(
        (ModelConfig, DialogueArguments, DemoArguments), defaults=use_defaults, positional="input_files"
    )
    if args.engine == "vllm":
        raise InputError("--engine vllm writes no text as it is made: start `vllm serve`, and give --engine openai")
    page = load_page()
    listener = page.listen(args.port)

    # 2. Model
    summarizer = Summarizer(model_args, dialogue_args, args)
    name = public_name(args.served_model_name or str(model_args.model_name_or_path))
    systems = [("Model", name, False)]
    if args.adapter_path:
        systems = [("Base model", name, True), ("Tuned", Path(args.adapter_path).parent.name, False)]

    # 3. Dialogues to choose from
    trained = trained_columns(Path(args.adapter_path or str(model_args.model_name_or_path)))
    if args.input_files:
        inputs = read_inputs(args.input_files, dialogue_args, trained_columns=trained)
    else:
        inputs = read_dataset(args.dataset_name, args.dataset_split, dialogue_args, trained)
    rows, examples = examples_of(inputs.rows, dialogue_args)
    note(*summarizer.notes, *inputs.notes, *inputs.faults)
    summarizer.load()

    # 4. The page
    waiting = Waiting(args.max_waiting, args.max_per_minute)
    answers = Answers(summarizer, systems, waiting, max_characters=args.max_characters, rows=rows)
    where = f"Dialogues go to {args.base_url}." if args.engine == "openai" else "It runs on this machine alone."
    application = page.open_page(answers, examples, note=f"{where} Nothing is stored.")

    # 5. Until Ctrl-C
    page.serve(application, listener, lambda url: note(f"{url} (Ctrl-C ends it)"))
    answers.close()


if __name__ == "__main__":
    run(main)
