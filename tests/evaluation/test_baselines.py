import json
import socket
from functools import cache

from conftest import ROOT
from dialogsum_sft.data.transcripts import parse
from dialogsum_sft.evaluation.baselines import baseline_scores, baseline_summaries, human_scores, share_of_human
from dialogsum_sft.evaluation.rouge import ROUGE_TYPES, rouge_scores
from dialogsum_sft.evaluation.significance import confidence_interval

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

DIALOGSUM_TEST = ROOT.parent / "shared" / "data" / "dialogsum" / "test.jsonl"
REFERENCES = [
    ["Tom lost his keys.", "Tom lost some keys yesterday.", "Nobody cares."],
    ["Tom sings.", "Anna sings.", "Ben slept."],
]


def test_human_scores_by_hand():
    # a b with a c: 50; a b with d: 0; a c with d: 0.
    human = human_scores([["a b", "a c", "d"], ["only one"]])
    assert human["rouge1"]["mean"] == pytest.approx((25 + 25 + 0) / 3)
    assert human["rouge1"]["max"] == pytest.approx((50 + 50 + 0) / 3)
    assert list(human) == list(ROUGE_TYPES)


def test_human_scores_need_two_references():
    assert human_scores([["a"], ["b"]]) is None
    assert share_of_human(rouge_scores(["a"], [["a"]]), None) is None


def test_share_of_human_is_over_dialogues_with_two_references():
    references = [["a b", "a c"], ["x"]]
    share = share_of_human(rouge_scores(["a b", "y"], references), human_scores(references))
    assert share["rouge1"] == pytest.approx((100 + 50) / 2 / 50)
    assert "rouge2" not in share  # the human score is 0


def dialogues(*texts):
    return [parse(text, "labels")[0] for text in texts]


def test_baselines_keep_speaker_labels():
    dialogue = "#Person1#: Hi.\n#Person2#: Hello, my friend.\n#Person1#: Fine.\n#Person2#: I sing and I dance."
    lines = dialogue.split("\n")
    assert baseline_summaries(dialogues(dialogue, "", "Ann: a\nBob: b\nAnn: c")) == {
        "lead-1": [lines[0], "", "Ann: a"],
        "lead-3": ["\n".join(lines[:3]), "", "Ann: a\nBob: b\nAnn: c"],
        "longest": [lines[3], "", "Ann: a"],
        "longest-3": ["\n".join(lines[1:]), "", "Ann: a\nBob: b\nAnn: c"],
        "whole dialogue": [dialogue, "", "Ann: a\nBob: b\nAnn: c"],
        "constant": ["#Person1# and #Person2# talk about something."] * 3,
    }
    assert baseline_summaries(dialogues("no labels"))["constant"] == ["They talk about something."]


def test_human_and_baselines_need_no_connection_and_no_global_random_state(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = np.random.get_state()[1].copy()
    human_scores(REFERENCES)
    baseline_scores(dialogues("A: a\nB: b", "A: a\nB: b"), REFERENCES)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.skipif(not DIALOGSUM_TEST.is_file(), reason="DialogSum's own test set is not here")
def test_human_and_baselines_on_dialogsum_equal_rouge_score_and_include_the_published_figures():
    # The published figures (protocol.md) are for all 500 dialogues; these are the first 250.
    with DIALOGSUM_TEST.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 250
    references = [[row["summary1"], row["summary2"], row["summary3"]] for row in rows]
    turns = [row["dialogue"].split("\n") for row in rows]
    types = ("rouge1", "rouge2", "rougeL")
    words = DefaultTokenizer(use_stemmer=True)
    words._stemmer.stem = cache(words._stemmer.stem)  # three quarters of its time
    scorer = RougeScorer(types, tokenizer=words)

    def directly(prediction, refs):
        scores = [scorer.score(ref, prediction) for ref in refs]
        return [[100 * score[name].fmeasure for score in scores] for name in types]  # [type][reference]

    human = [[directly(refs[i], refs[:i] + refs[i + 1 :]) for i in range(3)] for refs in references]
    baselines = {
        "lead-1": [lines[0] for lines in turns],
        "lead-3": ["\n".join(lines[:3]) for lines in turns],
        "longest": [max(lines, key=len) for lines in turns],
        "whole dialogue": [row["dialogue"] for row in rows],
    }
    by_baseline = {
        name: np.array([directly(text, refs) for text, refs in zip(texts, references, strict=True)])
        for name, texts in baselines.items()
    }
    means = {name: values.mean(axis=2) for name, values in by_baseline.items()}  # [dialogue][type]
    means["human"] = np.array(human).mean(axis=(1, 3))
    maxima = {"lead-3": by_baseline["lead-3"].max(axis=2), "human": np.array(human).max(axis=3).mean(axis=1)}

    ours = baseline_scores(dialogues(*(row["dialogue"] for row in rows)), references) | {
        "human": human_scores(references)
    }
    for how, figures in (("mean", means), ("max", maxima)):
        for system, values in figures.items():
            found = [ours[system][name][how] for name in types]
            assert found == pytest.approx(values.mean(axis=0), abs=1e-9), (system, how)

    published = {
        ("human", "mean"): (53.37, 26.73, 44.99),
        ("human", "max"): (59.61, 34.11, 51.84),
        ("lead-3", "mean"): (26.95, 6.71, 20.39),
        ("lead-3", "max"): (32.02, 10.22, 24.87),
        ("longest", "mean"): (21.99, 4.82, 17.41),
        ("lead-1", "mean"): (22.04, 5.15, 19.02),
        ("whole dialogue", "mean"): (19.20, 6.02, 14.38),
    }
    for (system, how), figures in published.items():
        for values, figure in zip({"mean": means, "max": maxima}[how][system].T, figures, strict=True):
            low, high = confidence_interval(values)
            assert low <= figure <= high, (system, how)
