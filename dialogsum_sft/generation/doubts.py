"""What looks wrong in the completions of an evaluation: how they ended, counted by name, and what to do."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dialogsum_sft.data.answers import is_cut_off, is_unfinished
from dialogsum_sft.data.encoding import Prompt
from dialogsum_sft.generation.engine import Completion

# Finish reasons of a summary that has ended, as endpoints name them.
_ENDED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "stop_token", "stopped"}
_ROOM = (
    "Give it more room (--max_new_tokens) or less to think about (at an endpoint, such as --extra_body "
    '\'{"reasoning_effort": "low"}\')'
)


def outcomes(completions: Sequence[Completion]) -> dict[str, int]:
    """How many completions ended how: the names of their faults, else their finish reasons ("none": unknown)."""
    return dict(Counter(map(_outcome, completions)))


def _as_row(completion: Completion) -> dict[str, Any]:
    return {"prediction": completion.text, "finish_reason": completion.finish_reason}


def _outcome(completion: Completion) -> str:
    if completion.fault is not None:
        return "content_filter" if completion.is_filtered else completion.fault.split(":")[0]
    return "none" if completion.finish_reason is None else completion.finish_reason


def doubts_of_finished(rows: Sequence[dict[str, Any]], prompts: Sequence[Prompt]) -> list[str]:
    """The `doubts` about lines of predictions.jsonl."""
    fields = ("prompt_tokens", "completion_tokens", "finish_reason", "fault")
    chosen = [
        Completion(row.get("raw_prediction", row["prediction"]), **{name: row.get(name) for name in fields})
        for row in rows
    ]
    return doubts(rows, prompts, [[one] for one in chosen], chosen)


def doubts(
    rows: Sequence[dict[str, Any]],
    prompts: Sequence[Prompt],
    drawn: Sequence[list[Completion]],
    chosen: Sequence[Completion],
) -> list[str]:
    """What looks wrong in the completions of `rows`: candidates that are all alike, answers that are no summary,
    summaries that are cut off, prompts that the endpoint shortened or rendered by another template."""
    lines = []
    if len(drawn[0]) > 1 and all(len({one.text for one in several}) == 1 for several in drawn):
        lines.append("all candidates of every dialogue are alike: the engine does not sample")
    total = len(chosen)
    for name, number in outcomes(chosen).items():
        at = [i for i, one in enumerate(chosen) if _outcome(one) == name]
        fault, some = chosen[at[0]].fault, ", ".join(str(rows[i]["id"]) for i in at[:5]) + (", ..." if at[5:] else "")
        if name == "none":
            lines.append(f"{number} of {total} answers do not say how they ended, so whether they were cut off")
        elif fault is not None or not (name.lower().removeprefix("finish_reason_") in _ENDED or is_cut_off(name)):
            said = f" ({fault})" if fault not in (None, name) else ""
            remedy = f". {_ROOM}" if name.startswith("reasoning") else ""
            remedy = ". Start the evaluation again to try these again" if chosen[at[0]].may_pass else remedy
            lines.append(f"{number} of {total} dialogues: {name}{said}: {some}{remedy}")
    cut_off = [one for one in chosen if one.fault is None and is_unfinished(_as_row(one))]
    if 2 * len(cut_off) >= total:
        lines.append(f"{len(cut_off)} of {total} summaries are cut off. {_ROOM}")
    counted = [
        (one.prompt_tokens, len(prompt.ids))
        for one, prompt in zip(chosen, prompts, strict=True)
        if one.prompt_tokens is not None and prompt.ids
    ]
    same = len({theirs - ours for theirs, ours in counted}) == 1  # another template adds or lacks the same everywhere
    short = [theirs for theirs, ours in counted if theirs < ours and (total == 1 or not same)]
    if short:
        lines.append(
            f"the endpoint counts fewer prompt tokens than were sent for {len(short)} of {total} dialogues (down to "
            f"{min(short)}): the server shortened them; raise its context (num_ctx, "
            "--max-model-len) or give --max_length"
        )
    if other := sum(theirs != ours for theirs, ours in counted) - len(short):
        lines.append(
            f"the endpoint counts other prompt tokens than the training had for {other} of {total} dialogues: "
            "its chat template is another one"
        )
    return lines
