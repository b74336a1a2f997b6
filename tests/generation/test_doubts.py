"""Warnings about the completions of an evaluation."""

from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.doubts import doubts, outcomes
from dialogsum_sft.generation.engine import Completion


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text, [{"role": "user", "content": text}], ids=[1] * len(text)) for text in texts]


def rows(number: int) -> list[dict[str, str]]:
    return [{"id": f"d{n}"} for n in range(number)]


def test_equal_candidates_and_other_prompt_tokens_are_noted() -> None:
    completion = Completion("a", 3, 1, "stop")
    two = prompts("ab", "abc")
    assert doubts(rows(2), two, [[completion]] * 2, [completion] * 2) == [
        "the endpoint counts other prompt tokens than the training had for 1 of 2 dialogues: its chat template is "
        "another one"
    ]
    assert doubts(rows(1), two[1:], [[completion, completion]], [completion]) == [
        "all candidates of every dialogue are alike: the engine does not sample"
    ]
    assert doubts(rows(1), two[1:], [[completion]], [completion]) == []


def test_prompts_that_the_server_shortened_are_no_other_template() -> None:
    def warnings(*counts: int | None) -> list[str]:
        chosen = [Completion("a", count, 1, "stop") for count in counts]
        three = prompts("a" * 20, "a" * 30, "a" * 40)
        return [line.split(":")[0] for line in doubts(rows(3), three, [[one] for one in chosen], chosen)]

    shortened = "the endpoint counts fewer prompt tokens than were sent for {} of 3 dialogues (down to {})"
    other = "the endpoint counts other prompt tokens than the training had for {} of 3 dialogues"
    assert warnings(20, 30, 40) == []
    assert warnings(None, None, None) == []
    assert warnings(20, 25, 25) == [shortened.format(2, 25)]
    assert warnings(20, 30, 35) == [shortened.format(1, 35)]
    assert warnings(10, 10, 10) == [shortened.format(3, 10)]
    assert warnings(25, 35, 45) == [other.format(3)]
    assert warnings(15, 25, 35) == [other.format(3)]  # the same everywhere: a system message less
    assert warnings(25, 35, 30) == [shortened.format(1, 30), other.format(2)]


def test_answers_that_are_no_summary_are_counted_by_name_with_their_dialogues() -> None:
    chosen = [
        Completion("a", None, 1, "stop"),
        Completion("", None, 1, "content_filter", "HTTP 400: against the policy"),
        Completion("a", None, 1, "MAX_TOKENS"),
        Completion("a", None, 1, "content_filter"),
        Completion("", None, 1, "stop", "refusal: I cannot."),
        Completion("", None, None, "error", "error: HTTP 502: upstream"),
        Completion("", None, None, "length", "reasoning without an answer"),
        Completion("a", None, 1, None),
    ]
    expected = {"stop": 1, "content_filter": 2, "MAX_TOKENS": 1, "refusal": 1, "error": 1}
    assert outcomes(chosen) == expected | {"reasoning without an answer": 1, "none": 1}
    lines = doubts(rows(8), prompts(*"aaaaaaaa"), [[one] for one in chosen], chosen)
    assert lines[:3] == [
        "2 of 8 dialogues: content_filter (HTTP 400: against the policy): d1, d3",
        "1 of 8 dialogues: refusal (refusal: I cannot.): d4",
        "1 of 8 dialogues: error (error: HTTP 502: upstream): d5. Start the evaluation again to try these again",
    ]
    assert lines[3].startswith("1 of 8 dialogues: reasoning without an answer: d6. Give it more room (--max_new_tok")
    assert lines[4:] == ["1 of 8 answers do not say how they ended, so whether they were cut off"]
