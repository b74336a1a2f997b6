"""Files of predictions as programs write them: each is read as what it is, or refused in a line."""

import gzip
import json

from dialogsum_sft import InputError
from dialogsum_sft.evaluation.prediction_columns import read_predictions

import pandas as pd
import pytest

TEXTS = ["Tom lost his key.", "Anna, late again, waits.", 'Ben says "no".']
OWN = {"id": "x", "dialogue": "A: b", "references": ["r"], "prediction": "a"}
IDS = ["test_0", "test_1", "test_2"]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(folder, name, content, **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_predictions(path, **options)


def texts(predictions):
    return [row["prediction"] for row in predictions.rows]


def ids(predictions):
    return [row.get("id") for row in predictions.rows]


def chat(text, **more):
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], **more}


def batch(custom_id, **answer):
    return {"custom_id": custom_id, "response": {"status_code": 200, "body": answer}}


WITHOUT_IDS = {
    "text": ("p.txt", "".join(f"{text}\n" for text in TEXTS)),
    "text without an ending": ("predictions", "\n".join(TEXTS)),
    "CRLF": ("p.txt", "".join(f"{text}\r\n" for text in TEXTS)),
    "BOM": ("p.txt", "\ufeff" + "\n".join(TEXTS)),
    "text in gz": ("p.txt.gz", gzip.compress("\n".join(TEXTS).encode())),
    "LLaMA-Factory": (
        "generated_predictions.jsonl",
        lines(*({"prompt": f"user\n{i}", "predict": t, "label": f"r{i}"} for i, t in enumerate(TEXTS))),
    ),
    "ChatGLM in a .txt": ("generated.txt", lines(*({"labels": "r", "predict": text} for text in TEXTS))),
    "JSON list in a .txt": ("list.txt", json.dumps([{"output": text} for text in TEXTS], indent=1)),
    "lm-eval": (
        "samples_dialogsum_2030-01-01.jsonl",
        lines(
            *(
                {
                    "doc_id": i,
                    "doc": {"dialogue": "A: b", "summary": "r"},
                    "target": "r",
                    "arguments": {"gen_args_0": {"arg_0": "prompt"}},
                    "resps": [[f" {text}\n"]],
                    "filtered_resps": [text],
                    "doc_hash": "0",
                }
                for i, text in enumerate(TEXTS)
            )
        ),
    ),
    "lm-eval without a filter": (
        "samples.jsonl",
        lines(*({"doc_id": i, "resps": [[text]]} for i, text in enumerate(TEXTS))),
    ),
    "vLLM": (
        "vllm.jsonl",
        lines(*({"prompt": "p", "outputs": [{"text": text, "finish_reason": "stop"}]} for text in TEXTS)),
    ),
    "pipeline": ("pipe.json", json.dumps([[{"summary_text": text}] for text in TEXTS])),
    "JSON list of texts": ("p.json", json.dumps(TEXTS)),
    "JSON lines of texts": ("p.jsonl", lines(*TEXTS)),
    "JSON lines of texts in a .txt": ("p.txt", lines(*TEXTS)),
    "JSON list in a .jsonl": ("p.jsonl", json.dumps([{"prediction": text} for text in TEXTS], indent=1)),
    "JSON list in a line": ("p.jsonl", json.dumps([{"prediction": text} for text in TEXTS]) + "\n"),
    "JSON lines in a .json": ("p.json", lines(*({"prediction": text} for text in TEXTS))),
    "JSON of columns": ("p.json", json.dumps({"model": "m", "predictions": TEXTS, "labels": ["a", "b", "c"]})),
    "rows under a name": ("p.json", json.dumps({"model": "m", "predictions": [{"pred": text} for text in TEXTS]})),
    "rows under another name": ("p.json", json.dumps({"model": "m", "samples": [{"pred": t} for t in TEXTS], "n": 3})),
    "OpenCompass": (
        "0.json",
        json.dumps({str(i): {"origin_prompt": "p", "prediction": t, "gold": "g"} for i, t in enumerate(TEXTS)}),
    ),
    "pandas' JSON": ("p.json", pd.DataFrame({"prediction": TEXTS}).to_json()),
    "pandas' JSON in parts": ("p.json", pd.DataFrame({"generated": TEXTS, "n": 1}).to_json(orient="split")),
    "pandas' JSON with a schema": ("p.json", pd.DataFrame({"generated": TEXTS}).to_json(orient="table")),
    "objects over several lines": ("p.jsonl", "".join(json.dumps({"pred": t}, indent=2) + "\n" for t in TEXTS)),
    "objects over lines in a .txt": ("p.txt", "".join(json.dumps({"pred": t}, indent=2) + "\n" for t in TEXTS)),
    "pandas' JSON of records": ("p.json", pd.DataFrame({"generated": TEXTS}).to_json(orient="records")),
    "pandas' CSV": ("p.csv", pd.DataFrame({"prediction": TEXTS, "gold": "r"}).to_csv()),
    "pandas' series": ("p.csv", pd.Series(TEXTS, name="bart_large").to_csv()),
    "one column": ("p.csv", pd.DataFrame({"generated_summary": TEXTS}).to_csv(index=False)),
    "columns in capitals": ("p.csv", pd.DataFrame({"Generated Summary": TEXTS, "x": 1}).to_csv(index=False)),
    "tabs": ("p.tsv", "prediction\tscore\n" + "".join(f'"{t.replace(chr(34), 2 * chr(34))}"\t1\n' for t in TEXTS)),
    "semicolons": ("p.csv", "prediction;score\n" + "".join(f'"{t.replace(chr(34), 2 * chr(34))}";1\n' for t in TEXTS)),
    "CSV in gz": ("p.csv.gz", gzip.compress(pd.DataFrame({"hypothesis": TEXTS}).to_csv().encode())),
    "lm-eval as CSV": ("p.csv", pd.DataFrame({"filtered_resps": [[t] for t in TEXTS], "resps": ""}).to_csv()),
}


@pytest.mark.parametrize("kind", WITHOUT_IDS)
def test_predictions_without_ids(tmp_path, kind):
    found = read(tmp_path, *WITHOUT_IDS[kind])
    assert texts(found) == TEXTS
    assert ids(found) == (["0", "1", "2"] if kind == "OpenCompass" else [None] * 3)


WITH_IDS = {
    "ours": ("p.jsonl", lines(*({"id": i, "prediction": t} for i, t in zip(IDS, TEXTS, strict=True)))),
    "table": ("p.csv", pd.DataFrame({"id": IDS, "prediction": TEXTS}).to_csv(index=False)),
    "fname": ("p.tsv", pd.DataFrame({"fname": IDS, "pred": TEXTS}).to_csv(index=False, sep="\t")),
    "index and id": ("p.csv", pd.DataFrame({"id": IDS, "summary": TEXTS}).to_csv()),
    "id and a model's name": ("p.csv", pd.DataFrame({"id": IDS, "qwen2.5-7b": TEXTS}).to_csv(index=False)),
    "object of ids under a name": ("p.json", json.dumps({"predictions": dict(zip(IDS, TEXTS, strict=True))})),
    "Gemini's batch": (
        "g.jsonl",
        lines(
            *(
                {"key": i, "response": {"candidates": [{"content": {"parts": [{"text": t}]}, "finishReason": "STOP"}]}}
                for i, t in zip(IDS, TEXTS, strict=True)
            )
        ),
    ),
    "white space around ids": ("p.csv", pd.DataFrame({"id": [f" {i} " for i in IDS], "pred": TEXTS}).to_csv()),
    "object of ids": ("p.json", json.dumps(dict(zip(IDS, TEXTS, strict=True)))),
    "object of ids and lists": ("p.json", json.dumps({i: [t] for i, t in zip(IDS, TEXTS, strict=True)})),
    "object of ids and rows": (
        "p.json",
        json.dumps({i: {"prediction": t, "score": 1} for i, t in zip(IDS, TEXTS, strict=True)}),
    ),
    "object of ids in a .txt": ("p.txt", json.dumps(dict(zip(IDS, TEXTS, strict=True)), indent=2)),
    "columns": ("p.json", json.dumps({"id": IDS, "prediction": TEXTS})),
    "batch of OpenAI": (
        "batch_output.jsonl",
        lines(
            *(
                {"id": "batch_req_1", "custom_id": i, "response": {"status_code": 200, "body": chat(t)}, "error": None}
                for i, t in zip(IDS, TEXTS, strict=True)
            )
        ),
    ),
    "chat completions": ("p.jsonl", lines(*(chat(t, id=i) for i, t in zip(IDS, TEXTS, strict=True)))),
    "batch of Anthropic": (
        "results.jsonl",
        lines(
            *(
                {"custom_id": i, "result": {"type": "succeeded", "message": {"content": [{"text": t}]}}}
                for i, t in zip(IDS, TEXTS, strict=True)
            )
        ),
    ),
    "OpenAI's Responses": (
        "r.jsonl",
        lines(
            *(
                batch(
                    i,
                    output=[
                        {"type": "reasoning", "summary": []},
                        {"type": "message", "content": [{"type": "output_text", "text": t, "annotations": []}]},
                    ],
                )
                for i, t in zip(IDS, TEXTS, strict=True)
            )
        ),
    ),
    "Anthropic with thinking": (
        "a.jsonl",
        lines(
            *(
                {
                    "custom_id": i,
                    "result": {
                        "type": "succeeded",
                        "message": {
                            "content": [
                                {"type": "thinking", "thinking": "hm", "signature": "x"},
                                {"type": "text", "text": t[:5]},
                                {"type": "text", "text": t[5:]},
                            ],
                            "stop_reason": "end_turn",
                        },
                    },
                }
                for i, t in zip(IDS, TEXTS, strict=True)
            )
        ),
    ),
    "Bedrock": (
        "b.jsonl.out.jsonl",
        lines(
            *(
                {"recordId": i, "modelInput": {}, "modelOutput": {"content": [{"type": "text", "text": t}]}}
                for i, t in zip(IDS, TEXTS, strict=True)
            )
        ),
    ),
    "Gemini with thoughts": (
        "g.jsonl",
        lines(
            *(
                {
                    "key": i,
                    "response": {
                        "candidates": [{"content": {"parts": [{"text": "hm", "thought": True}, {"text": t}]}}]
                    },
                }
                for i, t in zip(IDS, TEXTS, strict=True)
            )
        ),
    ),
    "lm-eval with ids": (
        "samples.jsonl",
        lines(
            *(
                {"doc_id": n, "doc": {"id": i, "summary": "r"}, "filtered_resps": [t], "resps": [[t]]}
                for n, (i, t) in enumerate(zip(IDS, TEXTS, strict=True))
            )
        ),
    ),
}


@pytest.mark.parametrize("kind", WITH_IDS)
def test_predictions_with_ids(tmp_path, kind):
    found = read(tmp_path, *WITH_IDS[kind])
    assert list(zip(ids(found), texts(found), strict=True)) == list(zip(IDS, TEXTS, strict=True))


def test_parquet(tmp_path):
    path = tmp_path / "p.parquet"
    pd.DataFrame({"dialogue_id": [7, 8, 9], "model_output": TEXTS}, index=[3, 4, 5]).to_parquet(path)
    found = read_predictions(path)
    assert (ids(found), texts(found)) == (["7", "8", "9"], TEXTS)


def test_empty_summaries(tmp_path):
    assert texts(read(tmp_path, "p.txt", "a\n\nb\n")) == ["a", "", "b"]
    assert texts(read(tmp_path, "p.csv", "id,prediction\nx,a\ny,\n")) == ["a", ""]
    assert texts(read(tmp_path, "p.jsonl", lines({"prediction": ""}, ""))) == ["", ""]
    assert texts(read(tmp_path, "p.csv", 'prediction\na\n""\nb\n""\n')) == ["a", "", "b", ""]


def test_empty_rows_at_the_end_of_a_table(tmp_path):
    assert texts(read(tmp_path, "p.csv", "id,prediction\nx,a\n,\n,\n")) == ["a"]
    with pytest.raises(InputError, match="row 2: row is empty"):
        read(tmp_path, "p.csv", "id,prediction\nx,a\n,\ny,b\n")


def test_only_line_feeds_end_a_line(tmp_path):
    found = read(tmp_path, "p.txt", "\ufeffone\u2028still one\r\n\nthree")
    assert texts(found) == ["one\u2028still one", "", "three"]
    assert [row["place"] for row in found.rows] == ["line 1", "line 2", "line 3"]


def test_columns_can_be_named(tmp_path):
    content = lines({"ticket": 4, "out": {"bart": ["a"], "t5": "b"}, "prediction": "c"})
    assert texts(read(tmp_path, "p.jsonl", content)) == ["c"]
    found = read(tmp_path, "p.jsonl", content, column="out.bart", id_column="ticket")
    assert (texts(found), ids(found), found.column) == (["a"], ["4"], "out.bart")
    assert found.notes == ["p.jsonl: predictions are taken from out.bart"]
    with pytest.raises(InputError, match=r"has no column x \(--prediction_column\): there are ticket, out, pred"):
        read(tmp_path, "p.jsonl", content, column="x")


def test_a_summary_beside_the_raw_output_is_not_passed_over(tmp_path):
    row = {"id": "a", "reference": "r", "raw_output": "Topic: x\nSummary: y", "summary": "y"}
    with pytest.raises(InputError, match=r"several columns that may be the predictions \(raw_output, summary\)"):
        read(tmp_path, "p.jsonl", lines(row))
    assert texts(read(tmp_path, "p.jsonl", lines(row), column="summary")) == ["y"]
    row["dialogue"] = "#Person1#: Hi."  # a row of a dataset, whose summary is a reference
    assert texts(read(tmp_path, "p.jsonl", lines(row))) == ["Topic: x\nSummary: y"]


def test_fields_are_normalised_once(tmp_path):
    row = {
        "id": 5.0,
        "prediction": "half \ud83d an emoji, whole \ud83d\ude00",
        "completion_tokens": "12",
        "prompt_tokens": 30.0,
        "references": "Only one.",
        "topic": 4,
        "finish_reason": "MAX_TOKENS",
        "cut_turns": None,
    }
    found = read(tmp_path, "p.jsonl", lines(row))
    assert found.rows == [
        {
            "id": "5",
            "prediction": "half \ufffd an emoji, whole \U0001f600",
            "completion_tokens": 12,
            "prompt_tokens": 30,
            "references": ["Only one."],
            "label": ["Only one."],
            "topic": "4",
            "finish_reason": "MAX_TOKENS",
            "place": "line 1",
        }
    ]
    assert found.notes == ["p.jsonl: 1 lone surrogates (half a character) are read as U+FFFD"]


def test_references_in_a_cell(tmp_path):
    content = 'prediction,references\na,"[\'b\', ""it\'s""]"\nc,"[""d"", ""e""]"\n'
    assert [row["references"] for row in read(tmp_path, "p.csv", content).rows] == [["b", "it's"], ["d", "e"]]


def test_finish_reason_of_a_server(tmp_path):
    row = {"custom_id": "a", "response": {"status_code": 200, "body": chat("t")}}
    row["response"]["body"]["choices"][0]["finish_reason"] = "length"
    assert read(tmp_path, "p.jsonl", lines(row)).rows[0]["finish_reason"] == "length"


def test_rows_are_put_in_the_order_of_an_index(tmp_path):
    table = pd.DataFrame({"prediction": TEXTS}).iloc[[2, 0, 1]]
    found = read(tmp_path, "p.csv", table.to_csv())
    assert texts(found) == TEXTS
    assert found.notes == ["p.csv: its rows are put in the order of the index column"]
    found = read(tmp_path, "p.jsonl", lines(*({"doc_id": 3 - i, "resps": [[t]]} for i, t in enumerate(TEXTS))))
    assert texts(found) == TEXTS[::-1]


REFUSED = {
    "null": (
        "p.jsonl",
        lines({"prediction": "a"}, {"prediction": None}),
        "line 2: prediction is null: write an empty",
    ),
    "number": ("p.jsonl", lines({"predict": 3}), "line 1: predict is not text"),
    "missing": ("p.jsonl", lines({"prediction": "a"}, {"id": "b"}), "line 2: prediction is missing"),
    "not an object": ("p.jsonl", lines({"prediction": "a"}) + "[1]\n", "line 2: line is not a JSON object"),
    "cut short": ("p.jsonl", lines({"prediction": "a"}) + '{"prediction": "b', "line 2: line is not JSON"),
    "several texts": ("p.jsonl", lines({"resps": [["a", "b"]]}), "line 1: resps is a list of several: keep one"),
    "no text in a list": ("p.jsonl", lines({"resps": []}), "line 1: resps is a list of several: keep one"),
    "count": (
        "p.jsonl",
        lines(OWN | {"completion_tokens": "many"}),
        "completion_tokens is 'many', not a nu",
    ),
    "negative": (
        "p.jsonl",
        lines(OWN | {"cut_turns": -1}),
        "cut_turns is '-1', not a number of 0 or more",
    ),
    "list as id": ("p.jsonl", lines({"prediction": "a", "id": [1]}), "line 1: id is neither text nor a number"),
    "refused by a server": (
        "b.jsonl",
        lines({"custom_id": "b", "response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}}),
        "none of its 1 rows has an answer: error: slow down",
    ),
    "header alone": (
        "p.csv",
        "id,name,x\na,b,c\n",
        "has no column prediction: there are id, name, x; name yours",
    ),
    "a table without a header": (
        "p.csv",
        'x1,"Tom, lost."\nx2,Anna\n',
        "no column prediction: there are x1, Tom, l",
    ),
    "two columns": ("p.jsonl", lines({"pred": "a", "generated": "b"}), r"may be the predictions \(pred, generated\)"),
    "a dataset": ("p.jsonl", lines({"dialogue": "A: b", "summary": "c"}), "p.jsonl has no column prediction: there"),
    "row of another length": ("p.csv", "id,prediction\na,b\nc\n", "row 2: row has another number of fields"),
    "table as text": ("p.txt", "id,prediction\na,b\n", r"line 1 \(id,prediction\) is the header of a table: name the"),
    "tabs as text": ("p.out", "id\tpredicted\na\tb\n", "is the header of a table: name the file .tsv"),
    "header of a column": ("p.txt", "Prediction\nTom sings.\n", "is the header of a table"),
    "JSON and text": ("p.txt", '{"predict": "a"}\nTom sings.\n', "line 1 is JSON, but line 2 is not"),
    "Python's repr": ("p.txt", "{'predict': 'a'}\n{'predict': 'b'}\n", "line 1 is an object, but not JSON"),
    "numbers": ("p.txt", "1. Tom sings.\n2. Anna.\n3. Ben.\n", r"its lines are numbered \('1. Tom sings.'\)"),
    "numbers and words": ("p.txt", "Summary 1: Tom sings.\nSummary 2: Anna.\n", "its lines are numbered"),
    "numbers and spaces": ("p.txt", "".join(f"{i} Tom sings.\n" for i in range(5)), "its lines are numbered"),
    "numbers from 0": ("p.txt", "0\tTom sings.\n1\tAnna.\n", "its lines are numbered"),
    "numbers in brackets": ("p.txt", "[1] Tom\n[2] Anna\n", "its lines are numbered"),
    "UTF-16": ("p.txt", "Tom\n".encode("utf-16"), "is UTF-16 text, or no text at all: save it as UTF-8"),
    "UTF-16 without its mark": ("p.txt", "Tom\n".encode("utf-16-le"), "is UTF-16 text, or no text at all"),
    "UTF-16 in JSON": ("p.jsonl", lines({"prediction": "a"}).encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    "Latin-1": ("p.txt", "café\n".encode("latin-1"), "is not UTF-8 text"),
    "Latin-1 in a table": (
        "p.csv",
        "id,prediction\na,café\n".encode("latin-1"),
        "prediction is not UTF-8 text",
    ),
    "gz cut short": ("p.txt.gz", gzip.compress(b"Tom sings." * 99)[:-9], "is a damaged gz file"),
    "parquet that is none": ("p.parquet", b"PAR1nothing", "is a damaged parquet file, or none at all"),
    "a spreadsheet": (
        "p.xlsx",
        b"PK\x03\x04\x14\0",
        "is a zip archive or a spreadsheet: give the file in it",
    ),
    "a zip by another name": ("p.csv", b"PK\x03\x04\x14\0", "is a zip archive or a spreadsheet"),
    "an id twice": ("p.json", '{"a": "x",\n"b": "y",\n"a": "z"}', "has the key a twice: remove one"),
    "a prediction twice": (
        "p.jsonl",
        '{"prediction": "x"}\n{"id": 4, "prediction": "x", "prediction": "y"}\n',
        r"line 2 has the key prediction twice \(in the object that begins with id: 4\): remove one",
    ),
    "a prediction twice in a list": (
        "p.json",
        '[{"id": "u", "prediction": "x", "prediction": "y"}, {"id": "v", "prediction": "x"}]',
        r"has the key prediction twice \(in the object that begins with id: u\): remove one",
    ),
    "a prediction twice in a .txt": ("p.txt", '{"prediction": "x", "prediction": "y"}\n' * 2, "line 1 has the key"),
    "a prediction twice in gz": (
        "p.jsonl.gz",
        gzip.compress(b'{"prediction": "x", "prediction": "y"}\n'),
        "line 1 has the key prediction twice",
    ),
    "index twice": ("p.csv", ",prediction\n0,a\n0,b\n", "the index column has a number twice"),
    "doc twice": (
        "samples.jsonl",
        lines({"doc_id": 0, "filter": "a", "resps": [["x"]]}, {"doc_id": 0, "filter": "b", "resps": [["x"]]}),
        r"doc_id has a number twice: give one row \(one filter, one run\) of each",
    ),
    "index with a hole": ("p.csv", ",prediction\n0,a\n2,b\n", "the index column does not count the rows"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_file_that_is_refused(tmp_path, kind):
    name, content, message = REFUSED[kind]
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, name, content)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_first_faults_are_named_and_the_others_counted(tmp_path):
    with pytest.raises(InputError, match=r"line 1: .*; line 5: prediction is null.*; and 2 more$"):
        read(tmp_path, "p.jsonl", lines(*[{"prediction": None}] * 7))


@pytest.mark.parametrize("text", ["3 men.\nTwo.\n", "1. Tom.\nAnna.\n", "2030 was good.\n2031 was bad.\n"])
def test_text_with_numbers_is_text(tmp_path, text):
    assert len(texts(read(tmp_path, "p.txt", text))) == text.count("\n")


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"topic": ["a", "b"]}, "topic is neither text nor a number"),
        ({"finish_reason": ["stop"]}, "finish_reason is neither text nor a number"),
        ({"fault": False}, "fault is neither text nor a number"),
        ({"candidates": [{"text": "b"}]}, "candidates is not a list of texts"),
        ({"prompt_tokens": "n/a"}, "prompt_tokens is not a number of 0 or more"),
        ({"turns": 7}, "turns that are not of predictions.jsonl"),
        ({"raw_prediction": "another"}, "raw_prediction, from which prediction is not made,"),
        ({"predictions_by_reference": ["a", "b"]}, "predictions_by_reference, which are not of prediction,"),
    ],
)
def test_columns_that_resemble_ours_are_ignored_in_other_files(tmp_path, more, note):
    found = read(tmp_path, "p.jsonl", lines(*[{"prediction": "a"} | more] * 2))
    assert found.rows == [{"prediction": "a", "place": f"line {n}"} for n in (1, 2)]
    assert found.notes == [f"p.jsonl: {note} in 2 rows: ignored"]


NO_ANSWER = {
    "error": ({"custom_id": "b", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}}, "error: no"),
    "error beside": ({"custom_id": "b", "response": None, "error": {"message": "expired"}}, "error: expired"),
    "status": ({"custom_id": "b", "response": {"status_code": 500, "body": {}}}, "error: HTTP 500"),
    "refusal": (
        batch("b", choices=[{"message": {"content": None, "refusal": "I can't."}, "finish_reason": "stop"}]),
        "refusal: I can't.",
    ),
    "filter": (
        batch("b", choices=[{"message": {"content": None}, "finish_reason": "content_filter"}]),
        "content_filter",
    ),
    "reasoning": (
        batch("b", choices=[{"message": {"content": "", "reasoning_content": "hm"}, "finish_reason": "stop"}]),
        "reasoning without an answer",
    ),
    "nothing": (batch("b", choices=[{"message": {"content": ""}, "finish_reason": "stop"}]), "empty answer"),
}


@pytest.mark.parametrize("kind", NO_ANSWER)
def test_an_answer_that_failed_is_an_empty_summary_with_its_fault(tmp_path, kind):
    row, fault = NO_ANSWER[kind]
    found = read(tmp_path, "b.jsonl", lines({"custom_id": "a", "response": {"body": chat("t")}}, row))
    assert [(row["prediction"], row.get("fault")) for row in found.rows] == [("t", None), ("", fault)]
    assert ids(found) == ["a", "b"]
    assert found.notes[-1] == f"b.jsonl: 1 rows have no answer and an empty summary: 1 {fault.split(':')[0]}"


def test_an_error_beside_an_empty_prediction(tmp_path):
    content = lines({"prediction": None, "error": "timeout"}, {"prediction": "a", "error": None})
    assert read(tmp_path, "p.jsonl", content).rows[0] | {"place": ""} == {
        "prediction": "",
        "fault": "error: timeout",
        "place": "",
    }
