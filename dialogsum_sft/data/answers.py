"""The summary in what a model wrote: without its thinking and, on request, without a preamble.

Models think in marks of their own: `<think>` (DeepSeek, Qwen, GLM, SmolLM3, Phi-4, Nemotron), `[THINK]` (Magistral),
channels (gpt-oss, Gemma 4), `<seed:think>`, `<|START_THINKING|>` (Command A), sentences (Granite). All are known here,
because a file of predictions does not say which model wrote it.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TAG = r"(?:[a-z]+[:_])?(?:think(?:ing)?|thoughts?|reasoning|analysis|reflection|scratchpad|rationale)"
# Where thinking begins and where it ends. "analysis" and "assistantfinal" without marks are gpt-oss's channels in a
# text whose special tokens were dropped; its final channel begins where its thinking ends.
_OPENING = re.compile(
    rf"<\|?{_TAG}(?:\s[^<>]*)?\|?>|\[{_TAG}\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|inner_prefix\|>|<\|channel>thought\b"
    r"|<\|channel\|>(?:analysis|commentary)\b|\A\s*(?-i:(?:assistant)?analysis(?=[A-Z#]))"
    r"|\A\s*Here(?: is|'s|’s) my thought process:",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"<\|?/{_TAG}\|?>|\[/{_TAG}\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<\|inner_suffix\|>|<channel\|>"
    r"|<\|channel\|>final\b[^<]*(?:<\|constrain\|>[^<]*)?(?:<\|message\|>)?|(?-i:assistantfinal(?=[A-Z#\s]))"
    r"|Here(?: is|'s|’s) my response:",
    re.IGNORECASE,
)
# What some families write around the answer that follows.
_BEFORE_ANSWER = re.compile(
    r"<(?:answer|response|output|summary)>|<\|begin_of_(?:solution|box)\|>|<\|START_(?:RESPONSE|TEXT)\|>",
    re.IGNORECASE,
)
_AFTER_ANSWER = re.compile(
    r"(?:</(?:answer|response|output|summary)>|<\|end_of_(?:solution|box)\|>|<\|END_(?:RESPONSE|TEXT)\|>"
    r"|<\|return\|>|<\|end\|>)\Z",
    re.IGNORECASE,
)
# Those of these marks that can be special tokens, which decoding drops.
_SPECIAL = re.compile(
    rf"<\|?/?{_TAG}\|?>|\[/?{_TAG}\]|◁/?think▷|<\|(?:channel|message|start|constrain|return)\|>|<\|channel>|<channel\|>"
    r"|<\|(?:START|END)_(?:THINKING|RESPONSE|TEXT)\|>|<\|inner_(?:prefix|suffix)\|>"
    r"|<\|(?:begin|end)_of_(?:thought|solution|box)\|>",
    re.IGNORECASE,
)

# Special tokens, of all families, that were not dropped at the ends of a text; a role may follow one.
_MARK = (
    r"(?:<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|</?s>|\[(?:PAD|EOS|BOS|CLS|SEP)\]|\[/?INST\]"
    r"|<(?:pad|eos|bos|unk|eod|eoa|n|eot|end_of_turn|start_of_turn|end_of_text|end_of_utterance|endoftext)>)"
)
_MARK_BEFORE = re.compile(rf"\s*({_MARK})(?:(?:assistant|model)(?=\s*{_MARK}|[ \t]*\n))?\s*", re.IGNORECASE)
_MARK_AFTER = re.compile(rf"\s*({_MARK})\s*\Z", re.IGNORECASE)
_NEW_LINE = re.compile(r"[ \t]*<n>[ \t]*")  # Pegasus' line break

_POLITE = (
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|alright|great|yes|no problem|got it|understood"
    r"|i(?:['’]d| would) be happy)\b[^.:!\n]{0,30}[!,.:]\s*)?"
)
_NOUN = r"(?:summar(?:y|ies|i[sz]\w*)|synopsis|recap|overview|tl;?dr|gist)"
_THING = r"(?:dialogue|dialog|conversation|chat|meeting|call|discussion|transcript)"
_KINDS = rf"(?:(?:final|short|brief|concise|quick|{_THING}|one-sentence|two-sentence) ){{0,2}}"
_HEADING, _BOLD = r"(?:#{1,6}[ \t]+|>[ \t]*|[-*•][ \t]+|1[.)][ \t]+)?", r"(?:[*_]{1,3}|</?(?:b|strong|em)>)?"
_END = rf"{_BOLD}(?:[:：]\s*|[.!]?[ \t]*\n\s*){_BOLD}\s*"
_MORE = r"[^:：.!\n]{0,90}?"
_HERE = r"here(?:['’]s| is| are| you go)?|below is|the following|this is|based on|i(?:['’]ve| have)?"
_OTHER_LANGUAGES = (
    r"(?:zusammenfassung|résumé|resumen|riassunto|resumo|samenvatting|резюме|краткое содержание"
    r"|摘要|总结|總結|概要|概述|要約|まとめ|요약)"
)
_PREAMBLES = [
    re.compile(rf"\A(?:{pattern})", re.IGNORECASE)
    for pattern in (
        # Sure! Here is a short summary of the dialogue:
        rf"{_POLITE}{_BOLD}(?:{_HERE})\b[^:：\n]{{0,120}}?\b{_NOUN}\b{_MORE}(?:{_END}|\s[-–—]\s)",
        r"here(?:['’]s| is) (?:what|how)\b[^:：\n]{0,60}[:：]\s*\n",
        # The dialogue can be summarized as follows: In one sentence: The summary is:
        rf"(?:the|this) {_THING} (?:can be|may be|could be|is) {_NOUN}{_MORE}{_END}",
        r"(?:in (?:summary|short|brief|conclusion)|to (?:summari[sz]e|sum up))\s*[:：]\s*",
        rf"in (?:one|two|1|2|a few) (?:or two )?(?:short )?(?:sentences?|words){_MORE}{_END}",
        rf"(?:the|my|a) {_KINDS}{_NOUN}\b{_MORE} (?:is|reads|would be|follows)(?: as follows)?{_END}",
        # Summary: **Summary of the dialogue:** Final answer (2 sentences): ## Summary
        rf"{_POLITE}{_HEADING}{_BOLD}\[?(?:the |my |your |a )?{_KINDS}(?:{_NOUN}|answer|response|output)"
        rf"(?: of (?:the |this )?{_THING}{_MORE})?(?: \([^()\n]{{1,40}}\))?\]?{_BOLD}(?:{_END}|\s-\s|\s?[–—]\s?)",
        rf"{_HEADING}{_BOLD}{_OTHER_LANGUAGES}[ \u00a0]?{_END}",
        r"(?:好的[，,。！!]?\s*)?(?:以下|下面|这|這)是?[^：:\n]{0,30}(?:摘要|总结|總結|概要|概述)[^：:\n]{0,10}[:：]\s*",
        r"tl;?dr:?\s+",
        r"(?:assistant|here you go|here it is)[!.:]*[ \t]*\n\s*",
        r"(?:sure|certainly|of course|absolutely)(?: thing)?[!.:,]*(?: here you go)?[!.:]*[ \t]*\n\s*",
        # **Dialogue 1:**
        rf"{_BOLD}#?(?:dialogue|dialog|conversation|example|sample) ?#?\d{{1,4}}#?{_BOLD}[:：]\s*{_BOLD}\s*",
        r"#{1,6}[ \t]+[^\n]+\n\s*",  # any heading
        r"(?:-{3,}|={3,})[ \t]*\n\s*|>[ \t]+",  # the line under a heading; a quotation
        r"(?:\*\*[^*\n]{1,80}\*\*|__[^_\n]{1,80}__)[ \t]*:?[ \t]*\n\s*",
    )
]
_FENCE = re.compile(r"(?:```|~~~)[ \t]*(?:[\w-]*[ \t]*\n)?")

# How an answer begins that is a refusal.
_REFUSAL = re.compile(
    r"(?:i['’]?m (?:really |very |so )?sorry|i am sorry|sorry\b|i apologi[sz]e|my apologies"
    r"|(?:unfortunately,? )?i (?:can(?:no|['’])t|can not|won['’]t|will not)"
    r"|(?:unfortunately,? )?i(?:['’]m| am) (?:unable|not (?:able|comfortable))"
    r"|as an? (?:ai|artificial|language model|large language)"
    r"|es tut mir leid|ich kann (?:leider )?(?:nicht|kein|dies)|als ki\b|als sprachmodell"
    r"|(?:je suis )?désolé|je ne peux pas|en tant qu['’]ia|lo siento|no puedo|como (?:una )?ia\b|mi dispiace|non posso"
    r"|desculpe|não posso|het spijt me|ik kan (?:niet|geen)|抱歉|很抱歉|对不起|對不起|我无法|我不能|作为(?:一个)?ai"
    r"|申し訳|죄송)",
    re.IGNORECASE,
)
# What engines and servers call a summary that was cut off at the limit of tokens, in lower case.
_CUT_OFF = {"length", "model_length", "max_length"}
_CUT_OFF |= {"max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens"}


@dataclass(frozen=True)
class Answer:
    """The summary in a text, and what was around it."""

    summary: str  # without thinking; the text itself where there is none
    has_thinking: bool
    is_unclosed: bool  # thinking that did not end, so that there is no summary
    has_preamble: bool  # `without_preamble` would change the summary
    has_marks: bool = False  # special tokens around the summary, and <n> for line breaks in it, which are taken off


def read_answer(text: str) -> Answer:
    """The summary is what follows the last mark that ends thinking, without special tokens at its ends. Thinking that
    does not end leaves none.
    """
    whole = _without_marks(text)
    end = max((match.end() for match in _CLOSING.finditer(whole)), default=0)
    if _OPENING.search(whole, end):
        return Answer("", True, True, False, whole != text)
    within = _within(whole[end:]) if end else whole
    summary = _NEW_LINE.sub("\n", _without_marks(within))
    has_marks = whole != text or summary != within
    return Answer(summary, bool(end), False, without_preamble(summary) != summary.strip(), has_marks)


def _without_marks(text: str) -> str:
    """The text without special tokens at its ends, but for those of thinking; stripped only where there are any."""
    for pattern in (_MARK_BEFORE, _MARK_AFTER):
        for _ in range(2000):  # <pad><pad>...
            match = pattern.match(text) if pattern is _MARK_BEFORE else pattern.search(text, max(0, len(text) - 99))
            if match is None or any(mark.match(text, match.start(1)) for mark in (_OPENING, _CLOSING)):
                break
            text = text[match.end() :] if pattern is _MARK_BEFORE else text[: match.start()]
    return text


def without_preamble(text: str) -> str:
    """The text without "Here is a summary:", "Summary:", headings, fences and a JSON object around it, stripped."""
    text = text.strip()
    for _ in range(8):  # a sentence, a fence, a heading in it, ...
        before = text
        for pattern in _PREAMBLES:
            text = pattern.sub("", text, count=1)
        if fence := _FENCE.match(text):
            text = text[fence.end() :].removesuffix(fence[0][:3]).strip()
        if _BEFORE_ANSWER.match(text):
            text = _within(text)
        text = _in_json(text)
        if text == before:
            break
    return text


def _in_json(text: str) -> str:
    """The summary in {"summary": "..."}; any other text as it is."""
    if text.startswith("{") and text.endswith("}"):
        try:
            found = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return text
        texts = [value for name, value in found.items() if re.fullmatch(_NOUN, name, re.IGNORECASE)]
        if len(texts) == 1 and isinstance(texts[0], str):
            return texts[0].strip()
    return text


def _within(text: str) -> str:
    """The text within the marks of an answer, if it has them."""
    text = text.strip()
    while match := _BEFORE_ANSWER.match(text):
        text = text[match.end() :].lstrip()
    while match := _AFTER_ANSWER.search(text, max(0, len(text) - 30)):
        text = text[: match.start()].rstrip()
    return text


def with_summary(row: Mapping[str, Any], strip_preamble: bool = False) -> dict[str, Any]:
    """A row of predictions.jsonl whose `prediction` (and each of `predictions_by_reference`) is the summary alone.

    What was written stands in `raw_prediction` (`raw_predictions_by_reference`) where it differs, and is read from
    there again, so that a row can be treated twice.
    """
    row = dict(row)
    for name in ("prediction", "predictions_by_reference"):
        raw = row.pop(f"raw_{name}", row.get(name))
        if raw is None:
            continue
        answers = [read_answer(text) for text in ([raw] if isinstance(raw, str) else raw)]
        texts = [without_preamble(a.summary) if strip_preamble and a.has_preamble else a.summary for a in answers]
        row[name] = texts[0] if isinstance(raw, str) else texts
        if row[name] != raw:
            row[f"raw_{name}"] = raw
    return row


def written(row: Mapping[str, Any]) -> list[Answer]:
    """What a model wrote for a row of predictions.jsonl: one answer, or one for each reference."""
    several = row.get("raw_predictions_by_reference") or row.get("predictions_by_reference")
    return [read_answer(text) for text in several or [row.get("raw_prediction", row["prediction"])]]


def decode_answer(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text of generated ids with the marks of thinking, also where the tokenizer holds them as special tokens.

    Where the prompt ends by opening the thinking, as some chat templates do, the text begins with that mark.
    """
    special = {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special and _SPECIAL.fullmatch(token.content)
    }
    pieces = itertools.groupby(ids, key=lambda token: token in special)
    text = "".join(tokenizer.decode(list(piece), skip_special_tokens=not is_mark) for is_mark, piece in pieces).strip()
    tail = tokenizer.decode(list(prompt[-16:])).rstrip()
    opened = next((match[0] for match in _OPENING.finditer(tail) if match.end() == len(tail)), None)
    return text if opened is None else f"{opened}\n{text}"


def is_unfinished(row: Mapping[str, Any]) -> bool:
    """Whether the summary of a row reached the limit of tokens, or has thinking that did not end."""
    return is_cut_off(row.get("finish_reason")) or any(answer.is_unclosed for answer in written(row))


def is_cut_off(finish_reason: object) -> bool:
    """Whether a finish reason, of any engine or server, means that the limit of tokens was reached."""
    return isinstance(finish_reason, str) and finish_reason.lower().removeprefix("finish_reason_") in _CUT_OFF


def is_refusal(text: str) -> bool:
    """Whether an answer begins as models refuse, in any of ten languages."""
    return bool(_REFUSAL.match(text))
