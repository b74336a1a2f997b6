import copy
import json
import time

from dialogsum_sft.data.answers import (
    decode_answer,
    is_cut_off,
    is_unfinished,
    read_answer,
    with_summary,
    without_preamble,
)

import pytest

SUMMARY = "#Person1# lends Anna a ladder, and she returns it on Sunday."
THINKING = "The user wants a summary. #Person1# talks to Anna: who lends what?\n\nI should be brief."

THOUGHT = {
    "think": f"<think>\n{THINKING}\n</think>\n\n{SUMMARY}",
    "think in the prompt": f"{THINKING}\n</think>\n\n{SUMMARY}",
    "think twice": f"<think>a</think>{THINKING}<think>b</think> {SUMMARY}",
    "think nested": f"<think>The tag <think> begins it. {THINKING}</think>\n{SUMMARY}",
    "empty": f"<think>\n\n</think>\n\n{SUMMARY}",
    "thinking": f"<thinking>{THINKING}</thinking>\n{SUMMARY}",
    "upper case": f"<Think>{THINKING}</THINK>\n{SUMMARY}",
    "thought": f"<thought>\n{THINKING}\n</thought>\n{SUMMARY}",
    "reasoning": f"<reasoning>\n{THINKING}\n</reasoning>\n{SUMMARY}",
    "answer": f"<think>{THINKING}</think>\n<answer> {SUMMARY} </answer>",
    "attributes": f'<think seconds="3">{THINKING}</think>{SUMMARY}',
    "pipes": f"<|think|>{THINKING}<|/think|>\n{SUMMARY}",
    "reflection": f"<thinking>{THINKING}<reflection>No.</reflection></thinking>\n<output>{SUMMARY}</output>",
    "box": f"<think>{THINKING}</think>\n<|begin_of_box|>{SUMMARY}<|end_of_box|>",
    "response": f"<think>{THINKING}</think>\n\n<response>\n{SUMMARY}\n</response>\n",
    "longcat": f"<longcat_think>{THINKING}</longcat_think>{SUMMARY}",
    "brackets": f"[REASONING]{THINKING}[/REASONING]\n{SUMMARY}",
    "seed": f"<seed:think>{THINKING}</seed:think>{SUMMARY}",
    "magistral": f"[THINK]{THINKING}[/THINK]{SUMMARY}",
    "kimi": f"◁think▷{THINKING}◁/think▷{SUMMARY}",
    "openthinker": (
        f"<|begin_of_thought|>{THINKING}<|end_of_thought|>\n\n<|begin_of_solution|>\n{SUMMARY}\n<|end_of_solution|>"
    ),
    "command a": f"<|START_THINKING|>{THINKING}<|END_THINKING|><|START_RESPONSE|>{SUMMARY}<|END_RESPONSE|>",
    "gpt-oss": (
        f"<|channel|>analysis<|message|>{THINKING}<|end|><|start|>assistant<|channel|>final<|message|>{SUMMARY}<|return|>"
    ),
    "gpt-oss from the start": (
        f"<|start|>assistant<|channel|>analysis<|message|>{THINKING}<|end|>\n<|start|>assistant<|channel|>commentary"
        f"<|message|>Done.<|end|><|start|>assistant<|channel|>final <|constrain|>text<|message|>{SUMMARY}"
    ),
    "gpt-oss, marks dropped": f"analysis{THINKING}assistantfinal{SUMMARY}",
    "gemma 4": f"<|channel>thought\n{THINKING}\n<channel|>{SUMMARY}",
    "granite": f"Here is my thought process:\n{THINKING}\n\nHere is my response:\n{SUMMARY}",
}


@pytest.mark.parametrize("family", THOUGHT)
def test_thinking_of_every_family_is_cut(family):
    answer = read_answer(THOUGHT[family])
    assert (answer.summary, answer.has_thinking, answer.is_unclosed) == (SUMMARY, True, False)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>\n{THINKING}",
        "<think>",
        f"  <think>{THINKING} {SUMMARY}",
        f"<think>a</think>\n<think>{THINKING}",
        f"Okay.\n<think>\n{THINKING}",
        f"<thought>{THINKING}",
        f"[THINK]{THINKING}",
        f"<seed:think>{THINKING}",
        f"<|channel|>analysis<|message|>{THINKING}",
        f"analysis{THINKING}",
        f"<|START_THINKING|>{THINKING}",
    ],
)
def test_thinking_that_does_not_end_leaves_no_summary(text):
    assert read_answer(text) == read_answer("<think>")
    row = with_summary({"prediction": text, "finish_reason": "stop"})
    assert row == {"prediction": "", "finish_reason": "stop", "raw_prediction": text}
    assert is_unfinished(row)


@pytest.mark.parametrize(
    "text",
    [
        SUMMARY,
        "",
        "  two words ",
        "Analysis of the sales is what #Person1# wants.",
        "analysis of the sales",
        "Tom [sings] and <thinks>, with a [thoughtful] reason.",
        "Tom thinks (THINK!) that 3 < 4 and 5 > 4.",
        "#Person1#'s final thought: sell.",
    ],
)
def test_other_texts_are_left_as_they_are(text):
    assert read_answer(text).summary == text
    assert with_summary({"prediction": text}) == {"prediction": text}
    assert with_summary({"prediction": text}, strip_preamble=True) == {"prediction": text}


PREAMBLES = [
    "Here is a summary: {}",
    "Here's a summary of the dialogue:\n\n{}",
    "Here is the summary of the dialogue in one or two sentences:\n{}",
    "Here is a summary of the conversation.\n\n{}",
    "Sure! Here is a short summary of the conversation:\n{}",
    "Certainly, here's a concise summary:\n\n**Summary:** {}",
    "Sure, I can help. Here is a one-sentence summary of it: {}",
    "Summary: {}",
    "SUMMARY:\n{}",
    "**Summary:** {}",
    "**Summary**: {}",
    "**Summary**\n\n{}",
    "## Summary\n\n{}",
    "# A ladder for Anna\n{}",
    "### Summary of the conversation:\n{}",
    "Summary of the dialogue: {}",
    "Summary of the conversation between #Person1# and Anna: {}",
    "[Summary]\n{}",
    "Here's your summary: {}",
    "Summary (2 sentences): {}",
    "Summary - {}",
    "Dialogue summary: {}",
    "The summary of the dialogue is as follows:\n{}",
    "The dialogue can be summarized as follows: {}",
    "The conversation can be summarised in one sentence: {}",
    "In one sentence: {}",
    "Based on the dialogue, here is a brief summary: {}",
    "Below is a summary of the dialogue:\n{}",
    "The following is a summary:\n{}",
    "This is a summary of the conversation:\n{}",
    "I have summarized the dialogue below:\n\n{}",
    "TL;DR: {}",
    "Answer: {}",
    "Final answer: {}",
    "Response:\n{}",
    "Of course!\n\n{}",
    "```\n{}\n```",
    "```text\n{}\n```",
    "```markdown\n## Summary\n{}\n```",
    "```{}```",
    "Here is the summary:\n\n```\n{}\n```",
    "~~~\n{}\n~~~",
    "<summary>\n{}\n</summary>",
    "The dialogue is summarized as follows: {}",
    "- Summary: {}",
    "assistant\n\n{}",
    "Summary — {}",
    "In summary: {}",
    "Got it! Here's a summary:\n{}",
    "I'd be happy to help! Here's a summary of the dialogue:\n\n{}",
    "Here you go:\n{}",
    "Summary\n=======\n{}",
    "<b>Summary:</b> {}",
    "Here's what happens in the dialogue:\n{}",
    "Here is a summary - {}",
    "Here’s your one-sentence summary:\n\n> {}",
    "Zusammenfassung: {}",
    "Résumé : {}",
    "摘要：{}",
    "以下是对话的摘要：\n{}",
]


@pytest.mark.parametrize("preamble", PREAMBLES)
def test_preamble_is_found_and_taken_off(preamble):
    text = preamble.format(SUMMARY)
    answer = read_answer(text)
    assert (answer.summary, answer.has_thinking, answer.has_preamble) == (text, False, True)
    assert without_preamble(text) == SUMMARY
    assert not read_answer(SUMMARY).has_preamble


@pytest.mark.parametrize(
    "text",
    [
        "Anna asks for a summary of the talk: #Person2# gives it.",
        "#Person1# gives #Person2# an overview of the plan: they start on Monday.",
        "Here Tom meets Anna.",
        "The conversation is about a summary that Tom must write.",
        "In short, Tom gives a recap of the match.",
        "#Person1#: Sure.\n#Person2#: Thanks!",
        "Sure, I'll come.\n#Person2#: Thanks!",
        "Assistant: The shop opens at nine.",
        "In short, Tom left.",
        "To summarise the plan, Tom draws a map: it is big.",
        "Here Tom explains what the plan is: they leave.",
        "The answer is no.",
        "Response times are what Tom complains about: they are long.",
        "Summaries are due on Friday, Tom says.",
        "I asked Anna about the ladder.",
        "This is the third time: Tom is late.",
        "Tom tells Anna: 'Summary: we lost.'",
    ],
)
def test_summary_that_begins_like_one_is_kept(text):
    assert without_preamble(text) == text
    assert not read_answer(text).has_preamble


@pytest.mark.parametrize("text", ["Here is a a ", "```", "# x\n", "</think>", "<think>", "<answer>", "\n", "**a"])
def test_a_long_text_costs_no_time(text):
    """A model that repeats itself: a pattern that tries every split would take minutes."""
    started = time.process_time()
    read_answer(text * (300_000 // len(text)))
    read_answer(f"</think>{text * (300_000 // len(text))}x")
    assert time.process_time() - started < 5


def test_preamble_stays_unless_it_is_to_be_taken_off():
    row = {"prediction": f"<think>x</think>Summary: {SUMMARY}", "finish_reason": "stop"}
    kept = with_summary(row)
    assert kept["prediction"] == f"Summary: {SUMMARY}"
    assert kept["raw_prediction"] == row["prediction"]
    stripped = with_summary(kept, strip_preamble=True)
    assert stripped == {**row, "prediction": SUMMARY, "raw_prediction": row["prediction"]}
    assert with_summary(stripped) == kept


def test_each_of_several_predictions_is_treated():
    row = with_summary({"prediction": "a", "predictions_by_reference": ["a", "<think>x</think>b"]})
    assert row == {
        "prediction": "a",
        "predictions_by_reference": ["a", "b"],
        "raw_predictions_by_reference": ["a", "<think>x</think>b"],
    }


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "FINISH_REASON_MAX_TOKENS", "model_length"])
def test_names_of_a_summary_that_was_cut_off(reason):
    assert is_cut_off(reason)


def test_other_reasons_are_not_cut_off():
    assert not any(map(is_cut_off, ["stop", "eos", "end_turn", "content_filter", None, 3]))


@pytest.fixture
def with_marks(chatml_tokenizer):
    """A tokenizer with Magistral's marks as special tokens, and <think> as an ordinary one."""
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": ["[THINK]", "[/THINK]"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def test_marks_that_are_special_tokens_are_decoded(with_marks):
    ids = with_marks.encode("[THINK]Who sings?[/THINK]Tom sings.<|im_end|>", add_special_tokens=False)
    assert decode_answer(with_marks, [], ids) == "[THINK]Who sings?[/THINK]Tom sings."
    assert decode_answer(with_marks, [], ids[-4:]) == with_marks.decode(ids[-4:], skip_special_tokens=True).strip()


def test_thinking_that_the_prompt_opens_is_part_of_the_answer(with_marks):
    prompt = with_marks.encode("Tom: hm\nassistant\n<think>\n", add_special_tokens=False)
    ids = with_marks.encode("Who sings?", add_special_tokens=False)
    assert decode_answer(with_marks, prompt, ids) == "<think>\nWho sings?"
    closed = with_marks.encode("Tom: hm\nassistant\n<think>\n\n</think>\n\n", add_special_tokens=False)
    assert decode_answer(with_marks, closed, ids) == "Who sings?"


MARKED = [
    f"{SUMMARY}<|im_end|>\n<|endoftext|>",
    f"<|begin_of_text|>{SUMMARY}<|eot_id|>",
    f"{SUMMARY}</s>",
    f"<s> {SUMMARY} </s>\n",
    f"<pad> {SUMMARY}</s><pad><pad>",
    f"<pad>{SUMMARY}" + "<pad>" * 300,
    f"[CLS] {SUMMARY} [SEP]",
    f"<start_of_turn>model\n{SUMMARY}<end_of_turn>\n<eos>",
    f"<|im_start|>assistant\n{SUMMARY}<|im_end|>",
    f"<|start_header_id|>assistant<|end_header_id|>\n\n{SUMMARY}<|eot_id|>",
    f"<｜Assistant｜>{SUMMARY}<｜end▁of▁sentence｜>",
    f"{SUMMARY}<|end|>",
    f"<think>x</think>{SUMMARY}<|im_end|>",
    f"<|im_start|>assistant\n<think>\nx\n</think>\n\n{SUMMARY}<|im_end|>\n",
    f"{SUMMARY}<n>",
]


@pytest.mark.parametrize("text", MARKED)
def test_special_tokens_at_the_ends_are_taken_off(text):
    answer = read_answer(text)
    assert (answer.summary, answer.has_marks, answer.has_preamble) == (SUMMARY, True, False)
    row = with_summary({"prediction": text})
    assert row == {"prediction": SUMMARY, "raw_prediction": text}


def test_pegasus_line_breaks():
    assert read_answer("Tom sings .<n>Anna waits . <n> Ben goes .").summary == "Tom sings .\nAnna waits .\nBen goes ."


@pytest.mark.parametrize("text", [SUMMARY, f" {SUMMARY}\n", "Tom says </s> ends it.", "It is <3.", "[Tom] sings", ""])
def test_text_without_special_tokens_is_kept(text):
    answer = read_answer(text)
    assert (answer.summary, answer.has_marks) == (text, False)


def test_special_tokens_alone_leave_no_summary():
    assert read_answer("<pad></s>").summary == ""
    assert read_answer("<|im_end|>").summary == ""
    assert read_answer("<|begin_of_text|><think>x").is_unclosed
    assert read_answer("x<|START_THINKING|>").is_unclosed


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"summary": SUMMARY}),
        "```json\n" + json.dumps({"Summary": SUMMARY}, indent=2) + "\n```",
        "Here is the summary:\n" + json.dumps({"summary": SUMMARY, "words": 11}),
        f"**Dialogue 1:** {SUMMARY}",
        f"Dialogue 12: {SUMMARY}",
    ],
)
def test_json_and_numbers_of_dialogues_are_preambles(text):
    assert read_answer(text).has_preamble
    assert without_preamble(text) == SUMMARY


@pytest.mark.parametrize(
    "text", ["{Tom} sings {Anna}", '{"a": 1}', "{}", "[1]", "Conversation 1 is short.", '{"summary": 3}']
)
def test_braces_that_are_no_answer_are_kept(text):
    assert without_preamble(text) == text
