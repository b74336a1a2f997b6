from dialogsum_sft import InputError
from dialogsum_sft.evaluation.bertscore import BertScorer
from dialogsum_sft.evaluation.runs import score_run

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = ["tom", "lost", "found", "his", "keys", "anna", "sings", "in", "the", "park"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A random BERT of four layers, as a folder."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(WORDS) + 5, max_position_embeddings=18, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def by_loops(encoder, layer, prediction, reference):
    """BERTScore computed token by token, with one text in a batch."""
    tokenizer, model = BertTokenizerFast.from_pretrained(encoder), BertModel.from_pretrained(encoder).eval()
    states = []
    for text in (prediction, reference):
        with torch.no_grad():
            states.append(
                model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
            )

    def best(vectors, others):  # of the tokens but [CLS] and [SEP], which are only matched against
        cosines = [[float(torch.cosine_similarity(v, o, dim=0)) for o in others] for v in vectors[1:-1]]
        return sum(map(max, cosines)) / len(cosines)

    precision, recall = best(states[0], states[1]), best(states[1], states[0])
    return 200 * precision * recall / (precision + recall)


def test_scores_equal_loops_over_tokens_in_any_batch(encoder):
    predictions = ["tom lost his keys", "anna sings"]
    references = [["tom lost keys in the park", "anna found his keys"], ["anna sings in the park", "tom"]]
    scored = BertScorer(str(encoder), 3).scores(predictions, references)
    for prediction, refs, scores in zip(predictions, references, scored, strict=True):
        assert scores == pytest.approx([by_loops(encoder, 3, prediction, ref) for ref in refs], abs=1e-3)


def test_same_text_scores_100_and_empty_text_0(encoder):
    scores = BertScorer(str(encoder)).scores(["tom sings", ""], [["tom sings", ""], ["tom", ""]])
    assert scores == [pytest.approx([100, 0], abs=1e-3), [0, 0]]


def test_long_text_is_truncated(encoder):
    assert len(BertScorer(str(encoder)).scores(["tom " * 50], [["tom"]])[0]) == 1


def test_default_layer_and_unknown_layers(encoder):
    assert BertScorer(str(encoder)).layer == 3  # 17 of 24
    for layer in (0, 5):
        with pytest.raises(InputError, match=f"--bertscore_layer {layer}: .* has the layers 1 to 4"):
            BertScorer(str(encoder), layer)


def test_missing_encoder_ends_in_one_line():
    with pytest.raises(
        InputError, match="--bertscore no/such: no such encoder here; give a folder, or download it first"
    ):
        BertScorer("no/such")


def test_record_has_bertscore_only_with_an_encoder(encoder):
    rows = [{"dialogue": "A: tom", "references": ["tom sings", "anna sings"], "prediction": "tom sings"}]
    assert "bertscore" not in score_run("a", encoder, rows).record
    run = score_run("a", encoder, rows, bert_scorer=BertScorer(str(encoder), 2))
    record = run.record["bertscore"]
    assert run.scores["bertscore"] == [record["mean"]]
    assert (record["model"], record["layer"]) == (str(encoder), 2)
    assert record["max"] == pytest.approx(100, abs=1e-3)
    assert record["mean"] < 100
