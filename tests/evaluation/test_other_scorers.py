"""Our ROUGE beside rouge_score, torchmetrics and rouge-metric (ROUGE-1.5.5 in Python): equal to four decimals.

Two things are made equal here first. torchmetrics splits sentences with a file that it downloads, so it gets ours;
ROUGE-1.5.5 has rules of its own for what a word is, so rouge-metric gets our words.
"""

from conftest import sample_dialogues
from dialogsum_sft.evaluation.rouge import aggregate_scores, rouge_scores, split_sentences
from dialogsum_sft.evaluation.tokenizers import open_tokenizer

import pytest
from rouge_score.rouge_scorer import RougeScorer

NAMES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
# Each dialogue six times: summarised by each annotator, by its first turn, by all of it, by nothing and by a word.
ROWS = [
    (text, row["references"])
    for row in sample_dialogues()
    for text in (*row["references"], row["dialogue"].split("\n")[0], row["dialogue"], "", "Yes.")
]
PAIRS = [(text, ref, i, j) for i, (text, refs) in enumerate(ROWS) for j, ref in enumerate(refs)]


@pytest.fixture(scope="module")
def ours():
    return rouge_scores([text for text, _ in ROWS], [refs for _, refs in ROWS])


def sentences(text):
    return split_sentences(text).split("\n")


def test_equal_to_rouge_score(ours):
    scorer = RougeScorer(NAMES, use_stemmer=True)
    for text, ref, i, j in PAIRS:
        theirs = scorer.score(split_sentences(ref), split_sentences(text))
        for name in NAMES:
            assert ours[name][i][j] == pytest.approx(100 * theirs[name].fmeasure, abs=1e-4)


@pytest.mark.parametrize(("accumulate", "ours_is"), [("avg", "mean"), ("best", "max")])
def test_equal_to_torchmetrics_over_several_references(ours, monkeypatch, accumulate, ours_is):
    theirs = pytest.importorskip("torchmetrics.functional.text.rouge")
    monkeypatch.setattr(theirs, "_split_sentence", sentences)
    texts, references = [text for text, _ in ROWS], [refs for _, refs in ROWS]
    found = theirs.rouge_score(texts, references, accumulate, use_stemmer=True, rouge_keys=tuple(NAMES))
    summary = aggregate_scores(ours)
    for name in NAMES:
        assert summary[name][ours_is] == pytest.approx(100 * float(found[f"{name}_fmeasure"]), abs=1e-4)


def test_equal_to_rouge_155(ours):
    rouge_metric = pytest.importorskip("rouge_metric")
    scorer = rouge_metric.PyRouge(rouge_n=(1, 2), rouge_l=True, rouge_s=True, rouge_su=True, skip_gap=4)
    words = open_tokenizer("default").tokenize
    names = {"rouge1": "rouge-1", "rouge2": "rouge-2", "rougeS4": "rouge-s4", "rougeSU4": "rouge-su4"}
    for text, ref, i, j in PAIRS:
        whole = scorer.evaluate_tokenized([[words(text)]], [[[words(ref)]]])
        split = scorer.evaluate_tokenized([list(map(words, sentences(text)))], [[list(map(words, sentences(ref)))]])
        found = {name: whole[theirs]["f"] for name, theirs in names.items()}
        found |= {"rougeL": whole["rouge-l"]["f"], "rougeLsum": split["rouge-l"]["f"]}
        assert {name: ours[name][i][j] for name in found} == pytest.approx(
            {name: 100 * value for name, value in found.items()}, abs=1e-4
        )
