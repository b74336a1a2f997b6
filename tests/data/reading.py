"""Read a text whose format is not named."""

from dialogsum_sft.data.transcripts import detect_format, parse, with_line_breaks

Said = list[tuple[str | None, str]]  # (speaker, text) of each turn


def read(text: str) -> tuple[Said, int]:
    """What is said in a text, and the number of dropped system lines."""
    text = with_line_breaks(text.replace("\r\n", "\n").strip())
    dialogue, dropped = parse(text, detect_format([text]))
    return [(turn.speaker, turn.text) for turn in dialogue.turns], len(dropped)
