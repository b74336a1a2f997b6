import json
import socket
import unicodedata
from functools import cache
from importlib.metadata import version

from conftest import ROOT
from dialogsum_sft.evaluation.rouge import (
    ROUGE_TYPES,
    DialogueRouge,
    UnicodeTokenizer,
    baseline_scores,
    baseline_summaries,
    confidence_interval,
    fingerprint,
    human_scores,
    lost_share,
    rouge_scores,
    share_of_human,
    split_sentences,
    suggest_tokenizer,
    summarize_scores,
)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

DIALOGSUM_TEST = ROOT.parent / "shared" / "data" / "dialogsum" / "test.jsonl"
SAMPLE = sorted((ROOT / "dialogsum_sft" / "data" / "sample").glob("*.jsonl"))

PREDICTIONS = ["Tom lost his keys.", "Anna sings loudly."]
REFERENCES = [
    ["Tom lost his keys.", "Tom lost some keys yesterday.", "Nobody cares."],
    ["Tom sings.", "Anna sings.", "Ben slept."],
]


def test_each_pair_has_the_f1_counted_by_hand():
    # 2 * shared / (length + length): of 4 and 5 words share 3, and one bigram of 3 and 4; of 3 and 2 words 1 or 2.
    scores = rouge_scores(PREDICTIONS, REFERENCES)
    assert scores["rouge1"] == [pytest.approx([100, 600 / 9, 0]), pytest.approx([40, 80, 0])]
    assert scores["rouge2"] == [pytest.approx([100, 200 / 7, 0]), pytest.approx([0, 200 / 3, 0])]
    assert scores["rougeL"] == scores["rougeLsum"] == scores["rouge1"]


def test_mean_max_and_per_reference_counted_by_hand():
    rouge1 = summarize_scores(rouge_scores(PREDICTIONS, REFERENCES))["rouge1"]
    assert rouge1["mean"] == pytest.approx(((100 + 600 / 9 + 0) / 3 + (40 + 80 + 0) / 3) / 2)
    assert rouge1["max"] == pytest.approx((100 + 80) / 2)
    assert rouge1["per_reference"] == pytest.approx([(100 + 40) / 2, (600 / 9 + 80) / 2, 0])


def test_the_mean_is_over_dialogues_not_over_references():
    rouge1 = summarize_scores(rouge_scores(["a b", "c d"], [["a b"], ["x", "y", "z"]]))["rouge1"]
    assert rouge1["mean"] == pytest.approx(50)


def test_per_reference_is_empty_where_dialogues_have_different_numbers_of_references():
    summary = summarize_scores(rouge_scores(["a b", "c d"], [["a b"], ["c d", "c"]]))
    assert [summary[name]["per_reference"] for name in ROUGE_TYPES] == [[]] * 6


def test_words_are_stemmed():
    assert rouge_scores(["she was walking"], [["she was walked"]])["rouge1"] == [[pytest.approx(100)]]


def test_equal_to_rouge_score_itself():
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
    summary = summarize_scores(rouge_scores(predictions, references))
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


def test_rougelsum_compares_sentence_by_sentence():
    scores = rouge_scores(["Tom sleeps. Anna sings."], [["Anna sings. Tom sleeps."]])
    assert scores["rougeL"] == [[pytest.approx(50)]]  # the longest common subsequence is one of the two sentences
    assert scores["rougeLsum"] == [[pytest.approx(100)]]


def test_sentences_do_not_end_at_titles_and_initials():
    text = "Mr. Brown met Dr. Lee and Mrs. Day. J. R. Smith left! Why? He paid 3.50 dollars.\n Fine."
    assert split_sentences(text).split("\n") == [
        "Mr. Brown met Dr. Lee and Mrs. Day.",
        "J. R. Smith left!",
        "Why?",
        "He paid 3.50 dollars.",
        "Fine.",
    ]


def test_the_interval_of_three_values_is_known():
    # A resample of 0, 0, 100 has the mean 0 with 8/27 and 100 with 1/27: each of them is more than 2.5%.
    assert confidence_interval([0, 0, 100]) == [0, 100]


def test_the_interval_is_a_95_percent_one():
    values = np.arange(100)
    half = 1.96 * values.std() / np.sqrt(100)  # 5.66; a 90% interval would have 4.75
    assert confidence_interval(values) == pytest.approx([49.5 - half, 49.5 + half], abs=0.3)


def test_one_dialogue_has_no_interval():
    assert confidence_interval([50.0]) is None


def test_the_interval_is_decided_by_its_seed():
    values = [n**1.5 for n in range(30)]
    assert confidence_interval(values, seed=1, resamples=500) == confidence_interval(values, seed=1, resamples=500)
    assert confidence_interval(values, seed=1, resamples=500) != confidence_interval(values, seed=2, resamples=500)


def test_the_interval_is_that_of_the_mean_over_dialogues():
    scores = {"rouge1": [[n**1.5, 0] for n in range(30)]}
    means = [n**1.5 / 2 for n in range(30)]
    assert summarize_scores(scores, seed=7)["rouge1"]["ci95"] == confidence_interval(means, seed=7)
    assert summarize_scores(scores)["rouge1"]["ci95"] == confidence_interval(means, seed=42)


def test_numpys_global_random_state_is_not_touched():
    before = np.random.get_state()
    summarize_scores(rouge_scores(PREDICTIONS, REFERENCES))
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
def test_predictions_and_references_must_match(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        rouge_scores(predictions, references)


def test_the_fingerprint_states_the_protocol():
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
def test_the_fingerprint_changes_with_the_references(other):
    references = [["a", "b"], ["c"]]
    assert fingerprint(references) == fingerprint([["a", "b"], ["c"]])
    assert fingerprint(other)["references_sha256"] != fingerprint(references)["references_sha256"]


def test_as_an_evaluate_metric_it_gives_the_same_numbers_without_a_network(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = DialogueRouge(cache_dir=str(tmp_path))
    found = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    summary = summarize_scores(rouge_scores(PREDICTIONS, REFERENCES))
    means = {name: summary[name]["mean"] for name in ROUGE_TYPES}
    assert found == means | {f"{name}_max": summary[name]["max"] for name in ROUGE_TYPES}


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
def test_with_the_default_tokenizer_they_score_zero(language):
    assert rouge_scores([TEXTS[language]], [[TEXTS[language]]])["rouge1"] == [[0]]


def test_chinese_counted_by_hand():
    # 6 and 7 characters share 5 in the same order; of 5 and 6 bigrams they share 小明, 了钥 and 钥匙.
    scores = rouge_scores(["小明丢了钥匙。"], [["小明找到了钥匙"]], tokenizer="unicode")
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == [[pytest.approx(1000 / 13)]]
    assert scores["rouge2"] == [[pytest.approx(600 / 11)]]


def test_russian_counted_by_hand():
    # 3 and 4 words share Анна and громко, one bigram of 2 and 3; поёт and пела are different words.
    scores = rouge_scores(["АННА ГРОМКО ПОЁТ!"], [["Анна громко пела песню."]], tokenizer="unicode")
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == [[pytest.approx(400 / 7)]]
    assert scores["rouge2"] == [[pytest.approx(40)]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("L'élève a 12 ans", ["l", "élève", "a", "12", "ans"]),
        ("Die Straße der STRASSEN", ["die", "straße", "der", "strassen"]),
        ("我用GPT-4写第3章", ["我", "用", "gpt", "4", "写", "第", "3", "章"]),
        ("サッカーOK、コーヒー々", ["サ", "ッ", "カ", "ー", "ok", "コ", "ー", "ヒ", "ー", "々"]),
        ("ｶﾞｽ ＃Ｐｅｒｓｏｎ１＃", ["ガ", "ス", "person1"]),
        ("커피를 마셨다.", ["커피를", "마셨다"]),
        ("हिन्दी में १२ शब्द।", ["हिन्दी", "में", "१२", "शब्द"]),
        ("กินดี", ["กิ", "น", "ดี"]),
        ("ກິນ", ["ກິ", "ນ"]),
        ("ទឹក", ["ទឹ", "ក"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("葛\U000e0100 co\u00adoperate one\u200btwo", ["葛", "cooper", "one", "two"]),
        (" \u0301 — 🙂 _", []),
    ],
)
def test_unicode_tokens(text, tokens):
    assert UnicodeTokenizer().tokenize(text) == tokens


ascii_text = st.lists(
    st.one_of(
        st.text(st.characters(max_codepoint=127), max_size=12),
        st.sampled_from(["_", "-", "'s", " ", "Flies", "walking", "#Person1#", "RELATIONAL", "happily", "ied", "3rd"]),
    )
).map("".join)


@settings(derandomize=True, database=None, deadline=None)
@given(ascii_text)
def test_on_ascii_text_both_tokenizers_give_the_same_tokens(text):
    assert UnicodeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)


def test_on_the_bundled_sample_both_tokenizers_give_the_same_tokens():
    rows = [json.loads(line) for path in SAMPLE for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [row[column] for row in rows for column in ("dialogue", "summary")]
    assert len(texts) > 100
    ours, theirs = UnicodeTokenizer(), DefaultTokenizer(use_stemmer=True)
    assert [ours.tokenize(text) for text in texts] == [theirs.tokenize(text) for text in texts]


@pytest.mark.parametrize("tokenizer", ["default", "unicode"])
@pytest.mark.parametrize(("prediction", "reference"), [("", "Tom 汤姆."), ("Tom 汤姆.", ""), ("", ""), ("。", "?")])
def test_an_empty_text_scores_zero(prediction, reference, tokenizer):
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
def test_sentences_of_other_scripts_need_no_space_between_them(text, sentences):
    assert split_sentences(text).split("\n") == sentences


def test_chinese_rougelsum_compares_sentence_by_sentence():
    scores = rouge_scores(["汤姆睡了。安娜唱歌。"], [["安娜唱歌。汤姆睡了。"]], tokenizer="unicode")
    assert scores["rougeL"] == [[pytest.approx(50)]]
    assert scores["rougeLsum"] == [[pytest.approx(100)]]


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        ([], 0),
        (["", "?! 🙂"], 0),
        (["Tom's 3 keys, it's 100% (really)_"], 0),
        (["小明丢了钥匙。", "好！"], 1),
        (["élève"], 2 / 5),
        (["e\u0301le\u0300ve"], 2 / 5),
        (["हिन्दी"], 1),
        (["abc", "天地人"], 1 / 2),
    ],
)
def test_the_share_that_the_default_tokenizer_loses(texts, share):
    assert lost_share(texts) == pytest.approx(share)


def test_unicode_is_suggested_when_more_than_a_tenth_would_be_lost():
    assert suggest_tokenizer(["Tom lost his keys."]) == "default"
    assert suggest_tokenizer(["abcdefgh 天"]) == "unicode"  # 1 of 9
    assert suggest_tokenizer(["abcdefghij 天"]) == "default"  # 1 of 11
    assert suggest_tokenizer([TEXTS["ru"]]) == "unicode"


def test_the_fingerprint_names_the_tokenizer():
    assert fingerprint([["a"]])["tokenizer"] == "default"
    assert fingerprint([["a"]], tokenizer="unicode") == fingerprint([["a"]]) | {"tokenizer": "unicode-1"}


def test_an_unknown_tokenizer_is_an_error():
    for function in (lambda: rouge_scores([], [], tokenizer="bpe"), lambda: fingerprint([], tokenizer="bpe")):
        with pytest.raises(ValueError, match="tokenizer 'bpe': use one of default, unicode"):
            function()


def test_the_evaluate_metric_takes_a_tokenizer(tmp_path):
    metric = DialogueRouge(cache_dir=str(tmp_path))
    arguments = {"predictions": ["小明丢了钥匙。"], "references": [["小明找到了钥匙", "小明丢了钥匙"]]}
    assert metric.compute(**arguments)["rouge1_max"] == 0
    found = metric.compute(**arguments, tokenizer="unicode")
    assert found["rouge1"] == pytest.approx((1000 / 13 + 100) / 2)
    assert found["rouge1_max"] == pytest.approx(100)


# ROUGE-S and ROUGE-SU.


def test_skip_bigrams_counted_by_hand():
    # Of a b c d and a c b d the six pairs in order share ab, ac, ad, bd, cd; with the four words 9 of 10.
    scores = rouge_scores(["a c b d"], [["a b c d"]])
    assert scores["rougeS4"] == [[pytest.approx(500 / 6)]]
    assert scores["rougeSU4"] == [[pytest.approx(900 / 10)]]


def test_skip_bigrams_have_at_most_four_words_between_them():
    assert rouge_scores(["x a b c d y"], [["x 1 2 3 4 y"]])["rougeS4"] == [[pytest.approx(100 / 15)]]
    assert rouge_scores(["x a b c d e y"], [["x 1 2 3 4 5 y"]])["rougeS4"] == [[0]]


def test_one_word_has_no_skip_bigram():
    scores = rouge_scores(["yes"], [["yes"]])
    assert (scores["rougeS4"], scores["rougeSU4"]) == ([[0]], [[pytest.approx(100)]])


def by_brute_force(prediction, reference, unigrams):
    """F1 of pairs of positions, struck off one by one."""
    tokens = [DefaultTokenizer(use_stemmer=True).tokenize(text) for text in (prediction, reference)]
    units = [
        [(t[i], t[j]) for i in range(len(t)) for j in range(len(t)) if i < j and j - i - 1 <= 4]
        + ([(word,) for word in t] if unigrams else [])
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


@settings(derandomize=True, database=None, deadline=None)
@given(words_text, words_text)
def test_skip_bigrams_agree_with_brute_force(prediction, reference):
    scores = rouge_scores([prediction], [[reference]])
    assert scores["rougeS4"][0][0] == pytest.approx(by_brute_force(prediction, reference, False), abs=1e-9)
    assert scores["rougeSU4"][0][0] == pytest.approx(by_brute_force(prediction, reference, True), abs=1e-9)


@settings(derandomize=True, database=None, deadline=None)
@given(ascii_text, ascii_text)
def test_remembering_words_and_texts_changes_no_score(prediction, reference):
    types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    theirs = RougeScorer(types, use_stemmer=True).score(split_sentences(reference), split_sentences(prediction))
    ours = rouge_scores([prediction], [[reference]])
    assert [ours[name] for name in types] == [[[100 * theirs[name].fmeasure]] for name in types]


# The human ceiling and the baselines.


def test_the_maximum_leaves_each_reference_out_once():
    rouge1 = summarize_scores({"rouge1": [[10, 20, 60], [5, 7, 9]]})["rouge1"]
    assert rouge1["max_leave_one_out"] == pytest.approx(((60 + 60 + 20) / 3 + (9 + 9 + 7) / 3) / 2)
    assert rouge1["max"] == pytest.approx((60 + 9) / 2)


def test_a_maximum_without_one_needs_two_references():
    assert summarize_scores({"rouge1": [[10], [20]]})["rouge1"]["max_leave_one_out"] is None
    assert summarize_scores({"rouge1": [[10], [20, 30]]})["rouge1"]["max_leave_one_out"] == pytest.approx(25)


def test_each_annotator_against_the_others_counted_by_hand():
    # a b with a c: 50; a b with d: 0; a c with d: 0.
    human = human_scores([["a b", "a c", "d"], ["only one"]])
    assert human["rouge1"]["mean"] == pytest.approx((25 + 25 + 0) / 3)
    assert human["rouge1"]["max"] == pytest.approx((50 + 50 + 0) / 3)
    assert list(human) == list(ROUGE_TYPES)


def test_no_human_ceiling_without_two_references():
    assert human_scores([["a"], ["b"]]) is None
    assert share_of_human(rouge_scores(["a"], [["a"]]), None) is None


def test_the_share_of_the_ceiling_is_over_the_dialogues_that_have_one():
    references = [["a b", "a c"], ["x"]]
    share = share_of_human(rouge_scores(["a b", "y"], references), human_scores(references))
    assert share["rouge1"] == pytest.approx((100 + 50) / 2 / 50)
    assert "rouge2" not in share  # nobody reaches anything: no ceiling to take a share of


def test_baselines_keep_the_labels():
    dialogue = "#Person1#: Hi.\n#Person2#: Hello, my friend.\n#Person1#: Fine.\n#Person2#: I sing and I dance."
    lines = dialogue.split("\n")
    assert baseline_summaries([dialogue, "", "Ann: a\nBob: b\nAnn: c"]) == {
        "lead-1": [lines[0], "", "Ann: a"],
        "lead-3": ["\n".join(lines[:3]), "", "Ann: a\nBob: b\nAnn: c"],
        "longest": [lines[3], "", "Ann: a"],
        "longest-3": ["\n".join(lines[1:]), "", "Ann: a\nBob: b\nAnn: c"],
        "whole dialogue": [dialogue, "", "Ann: a\nBob: b\nAnn: c"],
        "constant": ["#Person1# and #Person2# talk about something."] * 3,
    }
    assert baseline_summaries(["no labels"])["constant"] == ["They talk about something."]


def test_no_connection_and_no_global_random_state(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = np.random.get_state()[1].copy()
    human_scores(REFERENCES)
    baseline_scores(["A: a\nB: b"] * 2, REFERENCES)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.skipif(not DIALOGSUM_TEST.is_file(), reason="DialogSum's own test set is not here")
def test_human_and_baselines_on_dialogsum_are_rouge_scores_own_and_near_the_published_figures():
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

    ours = baseline_scores([row["dialogue"] for row in rows], references) | {"human": human_scores(references)}
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
