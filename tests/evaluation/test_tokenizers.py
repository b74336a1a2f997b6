import json

from conftest import SAMPLE
from dialogsum_sft.evaluation.tokenizers import UnicodeTokenizer, lost_share, suggest_tokenizer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

SPLITS = sorted(SAMPLE.glob("*.jsonl"))


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


@given(ascii_text)
def test_both_tokenizers_agree_on_ascii_text(text):
    assert UnicodeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)


def test_both_tokenizers_agree_on_the_sample():
    rows = [json.loads(line) for path in SPLITS for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [row[column] for row in rows for column in ("dialogue", "summary")]
    assert len(texts) > 100
    ours, theirs = UnicodeTokenizer(), DefaultTokenizer(use_stemmer=True)
    assert [ours.tokenize(text) for text in texts] == [theirs.tokenize(text) for text in texts]


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
def test_lost_share(texts, share):
    assert lost_share(texts) == pytest.approx(share)


def test_unicode_is_suggested_above_a_lost_share_of_a_tenth():
    assert suggest_tokenizer(["Tom lost his keys."]) == "default"
    assert suggest_tokenizer(["abcdefgh 天"]) == "unicode"  # 1 of 9
    assert suggest_tokenizer(["abcdefghij 天"]) == "default"  # 1 of 11
    assert suggest_tokenizer(["Том потерял ключи."]) == "unicode"
