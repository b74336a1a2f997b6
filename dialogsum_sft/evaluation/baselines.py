"""The scores that frame a system's: summaries without a model below it, human annotators above it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from dialogsum_sft.data.dialogue import Dialogue
from dialogsum_sft.evaluation.rouge import mean, rouge_scores

import numpy as np


def baseline_summaries(dialogues: Sequence[Dialogue]) -> dict[str, list[str]]:
    """Summaries without a model: {baseline: a summary for each dialogue}. Turns keep their speaker's label.

    The longest turns are those with the most characters, in the dialogue's order. The constant sentence names the two
    speakers who occur in the most dialogues.
    """
    turns = [[turn.raw.strip() for turn in dialogue.turns] or [""] for dialogue in dialogues]
    speakers = Counter(speaker for dialogue in dialogues for speaker in dialogue.speakers)
    pair = [speaker for speaker, _ in speakers.most_common(2)]
    constant = f"{' and '.join(pair) if len(pair) == 2 else 'They'} talk about something."

    def longest(lines: list[str], number: int) -> str:
        chosen = sorted(sorted(range(len(lines)), key=lambda i: -len(lines[i]))[:number])
        return "\n".join(lines[i] for i in chosen)

    return {
        "lead-1": [lines[0] for lines in turns],
        "lead-3": ["\n".join(lines[:3]) for lines in turns],
        "longest": [longest(lines, 1) for lines in turns],
        "longest-3": [longest(lines, 3) for lines in turns],
        "whole dialogue": [dialogue.text for dialogue in dialogues],
        "constant": [constant] * len(dialogues),
    }


def baseline_scores(
    dialogues: Sequence[Dialogue], references: Sequence[Sequence[str]], tokenizer: str = "default"
) -> dict[str, dict[str, dict[str, float]]]:
    """{baseline: {type: {"mean", "max"}}}, x 100."""
    result = {}
    for baseline, summaries in baseline_summaries(dialogues).items():
        scores = rouge_scores(summaries, references, tokenizer)
        result[baseline] = {
            name: {
                "mean": float(np.mean([mean(values) for values in by_dialogue])),
                "max": float(np.mean([max(values) for values in by_dialogue])),
            }
            for name, by_dialogue in scores.items()
        }
    return result


def human_scores(
    references: Sequence[Sequence[str]], tokenizer: str = "default"
) -> dict[str, dict[str, float]] | None:
    """The human ceiling, each annotator against the others of the same dialogue: {type: {"mean", "max"}}, x 100.

    It covers the dialogues with two or more references, and is None where there are none.
    """
    several = [list(refs) for refs in references if len(refs) > 1]
    if not several:
        return None
    annotators = [(ref, refs[:i] + refs[i + 1 :]) for refs in several for i, ref in enumerate(refs)]
    scores = rouge_scores([ref for ref, _ in annotators], [others for _, others in annotators], tokenizer)
    result = {}
    for name, by_annotator in scores.items():
        values = iter(by_annotator)
        by_dialogue = [[next(values) for _ in refs] for refs in several]
        result[name] = {
            "mean": float(np.mean([mean([mean(v) for v in annotators]) for annotators in by_dialogue])),
            "max": float(np.mean([mean([max(v) for v in annotators]) for annotators in by_dialogue])),
        }
    return result


def share_of_human(
    scores: Mapping[str, list[list[float]]], human: Mapping[str, Mapping[str, float]] | None
) -> dict[str, float] | None:
    """Mean of a system divided by the human mean, for each type, over the dialogues with two or more references."""
    if human is None:
        return None
    return {
        name: float(np.mean([mean(values) for values in scores[name] if len(values) > 1])) / ceiling["mean"]
        for name, ceiling in human.items()
        if ceiling["mean"]
    }
