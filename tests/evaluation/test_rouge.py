import unicodedata
from importlib.metadata import version

from dialogsum_sft.evaluation.rouge import ROUGE_TYPES, aggregate_scores, fingerprint, rouge_scores, split_sentences
from dialogsum_sft.evaluation.significance import confidence_interval

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

PREDICTIONS = ["Tom lost his keys.", "Anna sings loudly."]
REFERENCES = [
    ["Tom lost his keys.", "Tom lost some keys yesterday.", "Nobody cares."],
    ["Tom sings.", "Anna sings.", "Ben slept."],
]


def test_f1_of_each_pair_by_hand():
    # 2 * shared / (length + length): of 4 and 5 words share 3, and one bigram of 3 and 4; of 3 and 2 words 1 or 2.
    scores = rouge_scores(PREDICTIONS, REFERENCES)
    assert scores["rouge1"] == [pytest.approx([100, 600 / 9, 0]), pytest.approx([40, 80, 0])]
    assert scores["rouge2"] == [pytest.approx([100, 200 / 7, 0]), pytest.approx([0, 200 / 3, 0])]
    assert scores["rougeL"] == scores["rougeLsum"] == scores["rouge1"]


def test_mean_max_and_per_reference_by_hand():
    rouge1 = aggregate_scores(rouge_scores(PREDICTIONS, REFERENCES))["rouge1"]
    assert rouge1["mean"] == pytest.approx(((100 + 600 / 9 + 0) / 3 + (40 + 80 + 0) / 3) / 2)
    assert rouge1["max"] == pytest.approx((100 + 80) / 2)
    assert rouge1["per_reference"] == pytest.approx([(100 + 40) / 2, (600 / 9 + 80) / 2, 0])


def test_mean_is_over_dialogues_not_over_references():
    rouge1 = aggregate_scores(rouge_scores(["a b", "c d"], [["a b"], ["x", "y", "z"]]))["rouge1"]
    assert rouge1["mean"] == pytest.approx(50)


def test_per_reference_is_empty_for_different_numbers_of_references():
    summary = aggregate_scores(rouge_scores(["a b", "c d"], [["a b"], ["c d", "c"]]))
    assert [summary[name]["per_reference"] for name in ROUGE_TYPES] == [[]] * 6


def test_words_are_stemmed():
    assert rouge_scores(["she was walking"], [["she was walked"]])["rouge1"] == [[pytest.approx(100)]]


def test_scores_equal_those_of_rouge_score():
    predictions = [
        "#Person1# asks Mr. Brown about the cheapest flights. He finds none.",
        "#Person2# is ill; #Person1# calls a doctor, who's coming at 5 p.m.",
        "Nobody knows.",
    ]
    references = [
        ["#Person1# asked about flights.", "Mr. Brown can't find a cheap flight for #Person1#."],
        ["#Person1# calls the doctor because #Person2# feels ill.", "A doctor comes at 5 p.m. to see #Person2#."],
        ["Nobody knew. It was late.", "#Person1# didn't know."],
    ]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    summary = aggregate_scores(rouge_scores(predictions, references))
    for name in ("rouge1", "rouge2", "rougeL"):
        f1 = np.array(
            [
                [100 * scorer.score(ref, text)[name].fmeasure for ref in refs]
                for text, refs in zip(predictions, references, strict=True)
            ]
        )
        assert summary[name]["mean"] == pytest.approx(f1.mean(), abs=1e-9)
        assert summary[name]["max"] == pytest.approx(f1.max(axis=1).mean(), abs=1e-9)
        assert summary[name]["per_reference"] == pytest.approx(f1.mean(axis=0), abs=1e-9)


def test_rougelsum_compares_sentences():
    scores = rouge_scores(["Tom sleeps. Anna sings."], [["Anna sings. Tom sleeps."]])
    assert scores["rougeL"] == [[pytest.approx(50)]]  # the longest common subsequence is one of the two sentences
    assert scores["rougeLsum"] == [[pytest.approx(100)]]


def test_titles_and_initials_do_not_end_a_sentence():
    text = "Mr. Brown met Dr. Lee and Mrs. Day. J. R. Smith left! Why? He paid 3.50 dollars.\n Fine."
    assert split_sentences(text).split("\n") == [
        "Mr. Brown met Dr. Lee and Mrs. Day.",
        "J. R. Smith left!",
        "Why?",
        "He paid 3.50 dollars.",
        "Fine.",
    ]


def test_interval_is_of_the_mean_over_dialogues():
    scores = {"rouge1": [[n**1.5, 0] for n in range(30)]}
    means = [n**1.5 / 2 for n in range(30)]
    assert aggregate_scores(scores, seed=7)["rouge1"]["ci95"] == confidence_interval(means, seed=7)
    assert aggregate_scores(scores)["rouge1"]["ci95"] == confidence_interval(means, seed=42)


def test_aggregation_leaves_the_global_random_state():
    before = np.random.get_state()
    aggregate_scores(rouge_scores(PREDICTIONS, REFERENCES))
    after = np.random.get_state()
    assert after[2:] == before[2:]
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 predictions but 1 lists of references"),
        (["a"], [["a"], ["b"]], "1 predictions but 2 lists of references"),
        (["a", "b"], [["a"], []], "dialogue 1 has no reference"),
    ],
)
def test_unequal_lengths_and_missing_references_are_errors(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        rouge_scores(predictions, references)


def test_fingerprint_states_the_protocol():
    found = fingerprint([["a", "b", "c"], ["d"]])
    assert found["library"] == f"rouge_score {version('rouge_score')}"
    assert found["stemmer"] is True
    assert (found["dialogues"], found["references"]) == (2, 4)


@pytest.mark.parametrize(
    "other",
    [
        [["a", "b"], ["d"]],
        [["a", "b"], ["c "]],
        [["b", "a"], ["c"]],
        [["c"], ["a", "b"]],
        [["a"], ["b", "c"]],
        [["a", "b", "c"]],
        [["a", "bc"]],
        [["ab"], ["c"]],
    ],
)
def test_fingerprint_changes_with_the_references(other):
    references = [["a", "b"], ["c"]]
    assert fingerprint(references) == fingerprint([["a", "b"], ["c"]])
    assert fingerprint(other)["references_sha256"] != fingerprint(references)["references_sha256"]


TEXTS = {
    "zh": "小明丢了钥匙。小红帮他找。",
    "ja": "太郎はコーヒーを飲んだ。花子は歌う。",
    "ko": "민수는 열쇠를 잃어버렸다. 지혜가 노래한다.",
    "hi": "टॉम ने चाबी खो दी। अन्ना गाती है।",
    "ru": "Том потерял ключи. Анна поёт песню.",
    "fr": "L'élève a oublié ses clés à l'école.",
    "ar": "فقد أحمد مفاتيحه. هل تغني سلمى؟",
    "th": "สมชายทำกุญแจหาย",
}


@pytest.mark.parametrize("language", TEXTS)
def test_identical_texts_of_any_script_score_100(language):
    composed, decomposed = (unicodedata.normalize(form, TEXTS[language]) for form in ("NFC", "NFD"))
    found = rouge_scores([composed], [[composed, decomposed]], tokenizer="unicode")
    assert found == {name: [pytest.approx([100, 100])] for name in ROUGE_TYPES}


@pytest.mark.parametrize("language", ["zh", "ja", "ko", "hi", "ru", "ar", "th"])
def test_default_tokenizer_scores_other_scripts_zero(language):
    assert rouge_scores([TEXTS[language]], [[TEXTS[language]]])["rouge1"] == [[0]]


def test_chinese_by_hand():
    # 6 and 7 characters share 5 in the same order; of 5 and 6 bigrams they share 小明, 了钥 and 钥匙.
    scores = rouge_scores(["小明丢了钥匙。"], [["小明找到了钥匙"]], tokenizer="unicode")
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == [[pytest.approx(1000 / 13)]]
    assert scores["rouge2"] == [[pytest.approx(600 / 11)]]


def test_russian_by_hand():
    # 3 and 4 words share Анна and громко, one bigram of 2 and 3; поёт and пела are different words.
    scores = rouge_scores(["АННА ГРОМКО ПОЁТ!"], [["Анна громко пела песню."]], tokenizer="unicode")
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == [[pytest.approx(400 / 7)]]
    assert scores["rouge2"] == [[pytest.approx(40)]]


ascii_text = st.lists(
    st.one_of(
        st.text(st.characters(max_codepoint=127), max_size=12),
        st.sampled_from(["_", "-", "'s", " ", "Flies", "walking", "#Person1#", "RELATIONAL", "happily", "ied", "3rd"]),
    )
).map("".join)


@pytest.mark.parametrize("tokenizer", ["default", "unicode"])
@pytest.mark.parametrize(("prediction", "reference"), [("", "Tom 汤姆."), ("Tom 汤姆.", ""), ("", ""), ("。", "?")])
def test_empty_text_scores_zero(prediction, reference, tokenizer):
    found = rouge_scores([prediction], [[reference]], tokenizer=tokenizer)
    assert found == {name: [[0.0]] for name in ROUGE_TYPES}
    assert all(isinstance(scores[0][0], float) for scores in found.values())


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("他走了。她呢？好！！ 再见。", ["他走了。", "她呢？", "好！！", "再见。"]),
        ("他说：“你好。”她笑了。\n完。", ["他说：“你好。”", "她笑了。", "完。"]),
        ("「はい。」花子は笑う。", ["「はい。」", "花子は笑う。"]),
        ("टॉम सोया।अन्ना गाती है। ठीक॥", ["टॉम सोया।", "अन्ना गाती है।", "ठीक॥"]),
        ("هل تغني سلمى؟نعم. شكرا", ["هل تغني سلمى؟", "نعم.", "شكرا"]),
        ("3.50 a.b?c 约3.5元。", ["3.50 a.b?c 约3.5元。"]),
    ],
)
def test_sentences_of_other_scripts_without_spaces(text, sentences):
    assert split_sentences(text).split("\n") == sentences


def test_chinese_rougelsum_compares_sentences():
    scores = rouge_scores(["汤姆睡了。安娜唱歌。"], [["安娜唱歌。汤姆睡了。"]], tokenizer="unicode")
    assert scores["rougeL"] == [[pytest.approx(50)]]
    assert scores["rougeLsum"] == [[pytest.approx(100)]]


def test_fingerprint_names_the_tokenizer():
    assert fingerprint([["a"]])["tokenizer"] == "default"
    assert fingerprint([["a"]], tokenizer="unicode") == fingerprint([["a"]]) | {"tokenizer": "unicode-1"}


def test_unknown_tokenizer_is_an_error():
    for function in (lambda: rouge_scores([], [], tokenizer="bpe"), lambda: fingerprint([], tokenizer="bpe")):
        with pytest.raises(ValueError, match="tokenizer 'bpe': use one of default, unicode"):
            function()


def test_skip_bigrams_by_hand():
    # Of a b c d and a c b d the six pairs in order share ab, ac, ad, bd, cd. ROUGE-SU4 has a, b, c of
    # one and a, c, b of the other too: 8 of 9. The last word does not count by itself.
    scores = rouge_scores(["a c b d"], [["a b c d"]])
    assert scores["rougeS4"] == [[pytest.approx(500 / 6)]]
    assert scores["rougeSU4"] == [[pytest.approx(800 / 9)]]


def test_skip_bigrams_have_at_most_four_words_between_them():
    assert rouge_scores(["x a b c d y"], [["x 1 2 3 4 y"]])["rougeS4"] == [[pytest.approx(100 / 15)]]
    assert rouge_scores(["x a b c d e y"], [["x 1 2 3 4 5 y"]])["rougeS4"] == [[0]]


def test_one_word_has_no_skip_bigram():
    scores = rouge_scores(["yes"], [["yes"]])
    assert scores["rougeS4"] == scores["rougeSU4"] == [[0]]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        # the dog, the sat, dog sat, the, dog against the cat, the sat, cat sat, the, cat: two of five are shared.
        ("the dog sat", "the cat sat", 40),
        ("the dog", "the cat", 50),  # the dog, the against the cat, the
        ("a dog", "the dog", 0),
        ("sat", "sat", 0),
        ("x a", "x a", 100),
        ("a b a", "a b", 200 * 2 / (5 + 2)),  # ab, aa, ba, a, b against ab, a
    ],
)
def test_rougesu4_counts_single_words_as_rouge_155_does(prediction, reference, expected):
    assert rouge_scores([prediction], [[reference]])["rougeSU4"] == [[pytest.approx(expected)]]


def test_a_prediction_for_each_reference_is_scored_against_its_own():
    references = [["Tom sings.", "Anna sleeps."], ["Ben ran."]]
    scores = rouge_scores([["Tom sings.", "Tom sings."], "Ben ran."], references)
    assert scores["rouge1"] == [pytest.approx([100, 0]), pytest.approx([100])]
    assert rouge_scores([["Tom", "Anna"], ["Ben"]], references)["rouge1"][0] == pytest.approx([200 / 3, 200 / 3])
    with pytest.raises(ValueError, match="dialogue 0 has 1 predictions but 2 references"):
        rouge_scores([["Tom"], ["Ben"]], references)


def by_brute_force(prediction, reference, unigrams):
    """F1 of pairs of positions, struck off one by one."""
    tokens = [DefaultTokenizer(use_stemmer=True).tokenize(text) for text in (prediction, reference)]
    units = [
        [(t[i], t[j]) for i in range(len(t)) for j in range(len(t)) if i < j and j - i - 1 <= 4]
        + ([(word,) for word in t[:-1]] if unigrams else [])
        for t in tokens
    ]
    left, shared = list(units[1]), 0
    for unit in units[0]:
        if unit in left:
            left.remove(unit)
            shared += 1
    return 200 * shared / (len(units[0]) + len(units[1])) if units[0] or units[1] else 0.0


WORDS = ["the", "cat", "cats", "sat", "on", "a", "mat", ".", "#Person1#", "2"]
words_text = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


@given(words_text, words_text)
def test_skip_bigrams_agree_with_brute_force(prediction, reference):
    scores = rouge_scores([prediction], [[reference]])
    assert scores["rougeS4"][0][0] == pytest.approx(by_brute_force(prediction, reference, False), abs=1e-9)
    assert scores["rougeSU4"][0][0] == pytest.approx(by_brute_force(prediction, reference, True), abs=1e-9)


@given(ascii_text, ascii_text)
def test_cached_tokens_change_no_score(prediction, reference):
    types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    theirs = RougeScorer(types, use_stemmer=True).score(split_sentences(reference), split_sentences(prediction))
    ours = rouge_scores([prediction], [[reference]])
    assert [ours[name] for name in types] == [[[100 * theirs[name].fmeasure]] for name in types]


def test_max_leave_one_out_by_hand():
    rouge1 = aggregate_scores({"rouge1": [[10, 20, 60], [5, 7, 9]]})["rouge1"]
    assert rouge1["max_leave_one_out"] == pytest.approx(((60 + 60 + 20) / 3 + (9 + 9 + 7) / 3) / 2)
    assert rouge1["max"] == pytest.approx((60 + 9) / 2)


def test_max_leave_one_out_needs_two_references():
    assert aggregate_scores({"rouge1": [[10], [20]]})["rouge1"]["max_leave_one_out"] is None
    assert aggregate_scores({"rouge1": [[10], [20, 30]]})["rouge1"]["max_leave_one_out"] == pytest.approx(25)
