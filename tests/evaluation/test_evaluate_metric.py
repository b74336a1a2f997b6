import socket

from dialogsum_sft.evaluation.evaluate_metric import DialogueRouge
from dialogsum_sft.evaluation.rouge import ROUGE_TYPES, aggregate_scores, rouge_scores

import pytest

PREDICTIONS = ["Tom lost his keys.", "Anna sings loudly."]
REFERENCES = [
    ["Tom lost his keys.", "Tom lost some keys yesterday.", "Nobody cares."],
    ["Tom sings.", "Anna sings.", "Ben slept."],
]


def test_evaluate_metric_equals_rouge_scores_without_a_network(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = DialogueRouge(cache_dir=str(tmp_path))
    found = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    summary = aggregate_scores(rouge_scores(PREDICTIONS, REFERENCES))
    means = {name: summary[name]["mean"] for name in ROUGE_TYPES}
    assert found == means | {f"{name}_max": summary[name]["max"] for name in ROUGE_TYPES}


def test_evaluate_metric_takes_a_tokenizer(tmp_path):
    metric = DialogueRouge(cache_dir=str(tmp_path))
    arguments = {"predictions": ["小明丢了钥匙。"], "references": [["小明找到了钥匙", "小明丢了钥匙"]]}
    assert metric.compute(**arguments)["rouge1_max"] == 0
    found = metric.compute(**arguments, tokenizer="unicode")
    assert found["rouge1"] == pytest.approx((1000 / 13 + 100) / 2)
    assert found["rouge1_max"] == pytest.approx(100)
