from dialogsum_sft.evaluation.consensus import consensus
from dialogsum_sft.evaluation.rouge import rouge_scores

import pytest


@pytest.mark.parametrize("tokenizer", ["default", "unicode"])
def test_consensus_has_the_highest_mean_rouge_against_the_others(tokenizer: str) -> None:
    texts = [
        "Tom asks Ann to water the plants.",
        "Ann will water Tom's plants on Friday.",
        "They talk.",
        "Tom is asking Ann to water his plants on Friday.",
    ]
    means = []
    for i, text in enumerate(texts):
        scores = rouge_scores([text], [texts[:i] + texts[i + 1 :]], tokenizer)["rouge1"][0]
        means.append(sum(scores) / len(scores))
    assert consensus(texts, tokenizer) == means.index(max(means)) == 3


def test_consensus_of_equal_candidates_is_the_first() -> None:
    assert consensus(["They talk.", "They meet.", "They meet."]) == 1
    assert consensus(["", "", ""]) == 0
    assert consensus(["alone"]) == 0
