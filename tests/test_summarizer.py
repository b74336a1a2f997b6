"""Summarizer: what it is loaded from, what it takes, what it returns."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dialogsum_sft
from conftest import ROOT, Recipe, evaluation_args
from dialogsum_sft import InputError, Summarizer, Summary
from fake_endpoint import Server, answer, serving

import numpy as np
import pandas
import pytest
from datasets import Dataset

TEXT = "Mila: The boat leaves at six.\nOren: Then I set the alarm for five."
TURNS = [{"speaker": "Mila", "text": "The boat leaves at six."}, {"from": "Oren", "text": "Then I set the alarm."}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as running:
        yield running


@pytest.fixture
def adapter(whole_run: Any) -> Path:
    return Path(whole_run()) / "adapter"


def test_the_adapter_folder_suffices(adapter: Path, recipe: Recipe, tmp_path: Path, tiny_folder: Path) -> None:
    """Base, prompt and lengths are those of run.json: the summaries are those of recipes/eval.py."""
    recipe("eval", *evaluation_args(tiny_folder, tmp_path, f"--adapter_path={adapter}", "--evaluate_base=false"))
    rows = [json.loads(line) for line in (tmp_path / "eval-tuned" / "predictions.jsonl").open(encoding="utf-8")]
    summarizer = Summarizer.from_pretrained(adapter, max_new_tokens=8, model_name_or_path=str(tiny_folder))
    dialogues = [row["dialogue"] for row in rows]
    assert summarizer.summarize(dialogues) == [row["prediction"] for row in rows]
    records = summarizer.summarize(dialogues, records=True)
    assert [one.prompt_tokens for one in records] == [row["prompt_tokens"] for row in rows]
    assert [one.finish_reason for one in records] == [row["finish_reason"] for row in rows]


def test_texts_turns_pairs_and_messages_are_dialogues(server: Server) -> None:
    summarizer = Summarizer.from_pretrained(server.url, served_model_name="m")
    pairs = [("Mila", "The boat leaves at six."), ("Oren", "Then I set the alarm for five.")]
    messages = [{"role": "user", "content": "When does the boat leave?"}, {"role": "assistant", "content": "At six."}]
    whatsapp = "[12.03.24, 10:15:30] Mila: The boat leaves at six.\n[12.03.24, 10:16:02] Oren: Good."
    summaries = summarizer.summarize([TEXT, pairs, TURNS, messages, whatsapp])
    assert [one.split("\n", 1)[1].split("\n")[-1] for one in summaries] == [
        *["OREN: THEN I SET THE ALARM FOR FIVE."] * 2,
        *("OREN: THEN I SET THE ALARM.", "ASSISTANT: AT SIX."),
        "[12.03.24, 10:16:02] OREN: GOOD.",
    ]


def test_one_dialogue_has_one_summary(server: Server) -> None:
    summarizer = Summarizer.from_pretrained(server.url, served_model_name="m")
    server.script = lambda content, number: (200, answer("Fine."), {})
    assert [summarizer.summarize(one) for one in (TEXT, TURNS)] == ["Fine."] * 2
    assert summarizer.summarize([TURNS]) == ["Fine."]
    assert summarizer.summarize([]) == []


def test_any_iterable_of_dialogues_is_taken_whole(server: Server) -> None:
    """Also one that gives its items once."""
    summarizer = Summarizer.from_pretrained(server.url, served_model_name="m")
    texts = ["Mila: One.\nOren: Yes.", "Mila: Two.\nOren: Yes.", "Mila: Three.\nOren: Yes."]
    expected = summarizer.summarize(texts)
    for several in (iter(texts), (one for one in texts), pandas.Series(texts), np.array(texts)):
        assert summarizer.summarize(several) == expected


def test_a_record_has_what_the_dialogue_does_not_support(server: Server) -> None:
    summarizer = Summarizer.from_pretrained(server.url, served_model_name="m")
    text = "Mila tells Oren and Quentin that the boat leaves at six and that it costs 48 dollars."
    server.script = lambda content, number: (200, answer(f"<think>Hm.</think>{text}", "length"), {})
    assert summarizer.summarize(TEXT, records=True) == Summary(
        text, 7, 3, "length", None, 0, 0, 0, ["Quentin"], ["48"]
    )


def test_a_dialogue_that_an_endpoint_refuses_is_an_error_or_a_record(server: Server) -> None:
    def script(content: str, number: int) -> Any:
        return (400, {"error": {"message": "against the policy"}}, {}) if "boat" in content else None

    summarizer = Summarizer.from_pretrained(server.url, served_model_name="m")
    server.script = script
    with pytest.raises(InputError, match="dialogue 2 has no summary: .*against the policy"):
        summarizer.summarize(["Ann: Hi.", TEXT])
    first, second = summarizer.summarize(["Ann: Hi.", TEXT], records=True)
    assert (first.fault, second.text) == (None, "")
    assert "against the policy" in second.fault


@pytest.mark.parametrize(
    ("dialogues", "message"),
    [
        ([TEXT, ""], "dialogue 2 is empty"),
        ([TEXT, 3], "dialogue 2: a number, neither text nor a list of turns"),
        ([[]], "dialogue 1: .*the list of turns is empty"),
        (None, "NoneType is no dialogue: give a text, a list of turns, or a list of these"),
        (
            Path("chat.txt"),
            r"^'chat.txt' is a path, not a dialogue: read the file, as in summarize\(Path\('chat.txt'\).read_text\(",
        ),
        (["Ann: Hi.", Path("chat.txt")], "is a path, not a dialogue"),
        (__file__, "test_summarizer.py' is a path, not a dialogue: read the file"),
        (["Ann: Hi.", __file__], "is a path, not a dialogue"),
        (b"Mila: Hello.", "bytes is no dialogue"),
        ([{"id": 1, "dialogue": TEXT}], r"rows with the column dialogue, not turns: give \[row\['dialogue'\] for row"),
        ([{"ticket": 1, "transcript": TEXT, "agent": "Bo"}], "rows with the column transcript, not turns"),
        (Dataset.from_dict({"transcript": [TEXT], "agent": ["Bo"]}), "Dataset is a table: give its column with the"),
        ("calls/none.txt", "'calls/none.txt' is a path, not a dialogue, and no such file is there"),
        (pandas.DataFrame({"dialogue": [TEXT]}), "DataFrame is a table: give its column with the dialogues"),
    ],
)
def test_what_is_no_dialogue_is_named(server: Server, dialogues: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Summarizer.from_pretrained(server.url, served_model_name="m").summarize(dialogues)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    with pytest.raises(InputError, match="run is no model: .*did you mean .*adapter"):
        Summarizer.from_pretrained(tmp_path / "run")
    with pytest.raises(InputError, match="no such folder: ./nothing"):
        Summarizer.from_pretrained("./nothing")
    with pytest.raises(InputError, match="Summarizer has no option max_tokens"):
        Summarizer.from_pretrained("http://localhost/v1", max_tokens=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": "30"}, "max_new_tokens='30': give a whole number"),
        ({"seed": 1.5}, "seed=1.5: give a whole number"),
        ({"dialogue_format": "whatsapp"}, "dialogue_format='whatsapp': give labels, .* or lines"),
        ({"rename_speakers": "no"}, "rename_speakers='no': give True or False"),
        ({"instruction": 3}, "instruction=3: give a text"),
    ],
)
def test_a_value_that_cannot_be_is_named(server: Server, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Summarizer.from_pretrained(server.url, served_model_name="m", **options)


def test_objects_are_options_too(server: Server) -> None:
    options = {"generation_kwargs": {"do_sample": True, "temperature": 0.5}, "extra_body": {"user": "u"}}
    Summarizer.from_pretrained(server.url, served_model_name="m", **options).summarize(TEXT)
    assert (server.bodies[0]["temperature"], server.bodies[0]["user"]) == (0.5, "u")


def test_another_instruction_than_that_of_the_training_is_refused(adapter: Path, tiny_folder: Path) -> None:
    options = {"model_name_or_path": str(tiny_folder), "instruction": "Shorten."}
    with pytest.raises(InputError, match="was trained with another prompt: instruction is 'Shorten.'"):
        Summarizer.from_pretrained(adapter, **options)
    assert Summarizer.from_pretrained(adapter, allow_other_prompt=True, **options).settings.instruction == "Shorten."


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, time; t = time.time(); import dialogsum_sft; print(time.time() - t, 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    seconds, has_torch = done.stdout.split()
    assert has_torch == "False"
    assert float(seconds) < 0.3


def test_threads_wait_passively_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert dialogsum_sft.__getattr__("Summarizer") is Summarizer
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert dialogsum_sft.__getattr__("Summary") is Summary
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_merged_folder_gives_the_summaries_of_its_adapter(
    adapter: Path, recipe: Recipe, tmp_path: Path, tiny_folder: Path
) -> None:
    base = f"--model_name_or_path={tiny_folder}"
    recipe("merge", f"--adapter_path={adapter}", base, f"--output_dir={tmp_path / 'merged'}", "--dtype=float32")
    options: dict[str, Any] = {"max_new_tokens": 8, "dtype": "float32"}
    merged = Summarizer.from_pretrained(tmp_path / "merged", **options)
    by_adapter = Summarizer.from_pretrained(adapter, model_name_or_path=str(tiny_folder), **options)
    assert merged.settings == by_adapter.settings
    assert merged.summarize([TEXT, TURNS]) == by_adapter.summarize([TEXT, TURNS])


HUB = """
import json, sys
from dialogsum_sft import Summarizer
for name in ("acme/tiny", "acme/adapter"):
    print(json.dumps(Summarizer.from_pretrained(name, max_new_tokens=4).summarize([sys.argv[1]])))
try:
    Summarizer.from_pretrained("acme/nothing")
except Exception as error:
    print(type(error).__name__, str(error))
"""


@pytest.mark.slow
def test_a_model_and_an_adapter_of_the_hub(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Both are in the hub's cache; nothing is patched."""

    def cached(name: str, folder: Path) -> Path:
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        return Path(shutil.copytree(folder, place / "snapshots" / ("0" * 40)))

    cached("acme/tiny", tiny_folder)
    own = cached("acme/adapter", adapter)
    record = json.loads((own / "run.json").read_text(encoding="utf-8"))
    record["arguments"]["model_name_or_path"], record["cut_paths"] = "acme/tiny", []
    (own / "run.json").write_text(json.dumps(record), encoding="utf-8")
    config = json.loads((own / "adapter_config.json").read_text(encoding="utf-8"))
    (own / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "acme/tiny"}))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", HUB, TEXT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    base, tuned, missing = done.stdout.splitlines()
    options: dict[str, Any] = {"model_name_or_path": str(tiny_folder), "max_new_tokens": 4}
    assert json.loads(tuned) == Summarizer.from_pretrained(adapter, **options).summarize([TEXT])
    assert json.loads(base) == Summarizer.from_pretrained(tiny_folder, max_new_tokens=4).summarize([TEXT])
    assert missing.startswith("InputError")
    assert "acme/nothing" in missing


class StubLLM:
    """vllm.LLM as far as the engine uses it: answers with the ids of a text, and keeps what it was asked."""

    made: list["StubLLM"] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.requests = options, []  # type: ignore[var-annotated]
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=512))
        StubLLM.made.append(self)

    def generate(self, prompts: list[Any], sampling: list[Any], lora_request: Any, use_tqdm: bool) -> list[Any]:
        self.requests.append((prompts, sampling, lora_request))
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=ANSWER)]) for _ in prompts]


ANSWER: list[int] = []


def test_vllm_gets_the_prompts_and_the_adapter(
    adapter: Path, tiny_folder: Path, chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code path; tests/recipes/test_vllm.py runs vLLM itself."""
    stub = SimpleNamespace(LLM=StubLLM, SamplingParams=lambda **options: options, __version__="0.0")
    monkeypatch.setitem(sys.modules, "vllm", stub)
    monkeypatch.setitem(sys.modules, "vllm.lora", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=lambda *args: args))
    ANSWER[:] = [*chatml_tokenizer("They sail.", add_special_tokens=False)["input_ids"], chatml_tokenizer.eos_token_id]
    options: dict[str, Any] = {"model_name_or_path": str(tiny_folder), "max_new_tokens": 8}
    summarizer = Summarizer.from_pretrained(adapter, engine="vllm", **options)
    record = summarizer.summarize([TEXT], records=True)[0]
    assert (record.text, record.finish_reason, record.completion_tokens) == ("They sail.", "stop", len(ANSWER))
    (llm,) = StubLLM.made
    ((prompts, sampling, lora),) = llm.requests
    assert llm.options["enable_lora"] is True
    assert lora == ("adapter", 1, str(adapter.resolve()))
    assert sampling[0]["max_tokens"] == 8
    own = Summarizer.from_pretrained(adapter, **options).summarize([TEXT], records=True)[0]
    assert len(prompts[0]["prompt_token_ids"]) == own.prompt_tokens == record.prompt_tokens


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dialogsum_sft.summarizer.PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(InputError, match="summaries are made by one process, not by 2: start it with python"):
        Summarizer.from_pretrained("http://localhost/v1", served_model_name="m")
