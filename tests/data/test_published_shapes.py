"""English datasets in the shapes in which their authors publish them, read by flags; README.md has the table.

The words are invented; the keys, the nesting and the file types are those of the publications.
"""

import json
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError

import pytest
from published_files import fields, load, shown, write_csv, write_json, write_lines


def test_samsum(tmp_path: Path) -> None:
    """A JSON array and a CSV; the lines end in carriage returns."""
    row = {"id": "138", "summary": "Ola is late.", "dialogue": "Ola: I'm late :(\r\nPer: <file_gif>\r\nOla: Sorry"}
    expected = [("138", [("Ola", "I'm late :("), ("Per", "<file_gif>"), ("Ola", "Sorry")], ["Ola is late."])]
    assert shown(load(write_json(tmp_path / "train.json", [row]))) == expected
    assert shown(load(write_csv(tmp_path / "train.csv", row))) == expected


def test_dialogsum(tmp_path: Path) -> None:
    """The authors' lines have three summaries in the test split; the hub has a row for each of them."""
    dialogue = "#Person1#: Is it open?\n#Person2#: From nine."
    turns = [("#Person1#", "Is it open?"), ("#Person2#", "From nine.")]
    row = {"fname": "test_0", "dialogue": dialogue}
    for n in (1, 2, 3):
        row |= {f"summary{n}": f"It opens at nine ({n}).", f"topic{n}": "opening hours"}
    expected = [("test_0", turns, [f"It opens at nine ({n})." for n in (1, 2, 3)])]
    examples = load(write_lines(tmp_path / "dialogsum.test.jsonl", row))
    assert (shown(examples), examples.rows["topic"]) == (expected, ["opening hours"])
    hub = [
        {"id": f"test_0_{n}", "dialogue": dialogue, "summary": row[f"summary{n}"], "topic": "hours"} for n in (1, 2, 3)
    ]
    assert shown(load(write_csv(tmp_path / "test.csv", *hub))) == expected


def test_mts_dialog(tmp_path: Path) -> None:
    """Several sections may be of one visit: with the section in the instruction they are different examples."""
    dialogue = "Doctor: Any pain?\nPatient: In my knee.\nGuest_family: Since May."
    rows = [
        {"ID": 0, "section_header": "CC", "section_text": "Knee pain.", "dialogue": dialogue},
        {"ID": 1, "section_header": "FAM/SOCHX", "section_text": "Lives with a sister.", "dialogue": dialogue},
    ]
    path = write_csv(tmp_path / "MTS-Dialog-TrainingSet.csv", *rows)
    examples = load(
        path, summary_columns=["section_text"], id_column="ID", instruction="Write the section {section_header}."
    )
    turns = [("Doctor", "Any pain?"), ("Patient", "In my knee."), ("Guest_family", "Since May.")]
    assert shown(examples) == [("0", turns, ["Knee pain."]), ("1", turns, ["Lives with a sister."])]
    assert fields(examples) == [{"section_header": "CC"}, {"section_header": "FAM/SOCHX"}]


def test_aci_bench(tmp_path: Path) -> None:
    source, note = "[doctor] hi , how's the knee ?\n[patient] sore .", "CHIEF COMPLAINT\n\nKnee pain."
    turns = [("doctor", "hi , how's the knee ?"), ("patient", "sore .")]
    content = {"data": [{"src": source, "tgt": note, "file": "0-aci"}]}
    path = write_json(tmp_path / "train_full.json", content)
    options: dict[str, Any] = {"dialogue_column": "src", "summary_columns": ["tgt"], "id_column": "file"}
    assert shown(load(path, **options)) == [("0-aci", turns, [note])]
    row = {"dataset": "aci", "encounter_id": "D2N001", "dialogue": source, "note": note}
    path = write_csv(tmp_path / "train.csv", row)
    assert shown(load(path, summary_columns=["note"], id_column="encounter_id")) == [("D2N001", turns, [note])]


def test_qmsum(tmp_path: Path) -> None:
    """Each query is an example; a meeting may have no specific ones. Names have commas, brackets and titles."""
    meeting = {
        "topic_list": [{"topic": "The lamp", "relevant_text_span": [["0", "1"]]}],
        "general_query_list": [{"query": "Summarize the meeting.", "answer": "A lamp was chosen."}],
        "specific_query_list": [
            {"query": "What did Ola say?", "answer": "That it is bright.", "relevant_text_span": [["1", "1"]]}
        ],
        "meeting_transcripts": [
            {"speaker": "The Chair (Hon. Per Holm (North, Lib.))", "content": "Note: we begin."},
            {"speaker": "Industrial Designer", "content": "It is bright {vocalsound} ."},
        ],
    }
    lists = ["general_query_list[].answer", "specific_query_list[].answer"]
    options = {"dialogue_column": "meeting_transcripts", "summary_columns": lists, "instruction": "{query}"}
    second = meeting | {"specific_query_list": [], "meeting_transcripts": [{"speaker": "Per", "content": "Hm ."}]}
    path = write_lines(tmp_path / "train.jsonl", meeting, second)
    examples = load(path, **options)
    turns = [
        ("The Chair (Hon. Per Holm (North, Lib.))", "Note: we begin."),
        ("Industrial Designer", "It is bright {vocalsound} ."),
    ]
    assert shown(examples) == [
        ("1_1", turns, ["A lamp was chosen."]),
        ("1_2", turns, ["That it is bright."]),
        ("2_1", [("Per", "Hm .")], ["A lamp was chosen."]),
    ]
    queries = ["Summarize the meeting.", "What did Ola say?", "Summarize the meeting."]
    assert fields(examples) == [{"query": query} for query in queries]
    alone = write_json(tmp_path / "ES2002a.json", meeting)  # as in data/ALL/train
    assert len(load(alone, **options).rows) == 2


LOG = [
    {"turn id": 1, "user utterance": "@Shop my lamp is dark", "system response": "Which one?", "dialog history": ""},
    {"turn id": 2, "user utterance": "the blue", "system response": "", "dialog history": "<USER> @Shop my lamp"},
]
SUMMARIES = {"summaries": {"extractive_summaries": [], "abstractive_summaries": [["A.", "B."], ["C."]]}}


def test_tweetsumm_of_dialogstudio(tmp_path: Path) -> None:
    """Objects by their names, each exchange with two turns, a summary as a list of sentences; on the hub, the
    information is JSON in a column.
    """
    row = {"original dialog id": "b06", "dialog index": 1, "original dialog info": SUMMARIES, "log": LOG, "prompt": []}
    content = {"TweetSumm--train--1": row, "TweetSumm--train--2": row | {"log": LOG[:1]}}
    options = {"summary_columns": ["original dialog info.summaries.abstractive_summaries"]}
    turns = [("User", "@Shop my lamp is dark"), ("System", "Which one?"), ("User", "the blue")]
    examples = load(write_json(tmp_path / "train.json", content), **options)
    assert shown(examples) == [
        ("TweetSumm--train--1", turns, ["A. B.", "C."]),
        ("TweetSumm--train--2", turns[:2], ["A. B.", "C."]),
    ]
    assert examples.counts.skipped_turns == 1
    hub = row | {"new dialog id": "TweetSumm--train--1", "original dialog info": json.dumps(SUMMARIES)}
    examples = load(write_lines(tmp_path / "train.jsonl", hub), id_column="new dialog id", **options)
    assert shown(examples) == [("TweetSumm--train--1", turns, ["A. B.", "C."])]


def test_tweetsumm_by_its_authors_processor(tmp_path: Path) -> None:
    turns = [{"is_agent": False, "sentences": ["My lamp is dark.", "Help!"]}, {"is_agent": True, "sentences": ["Ok."]}]
    row = {"dialog": {"dialog_id": "b06", "turns": turns}} | SUMMARIES
    options = {"summary_columns": ["summaries.abstractive_summaries"], "id_column": "dialog.dialog_id"}
    examples = load(write_lines(tmp_path / "train.jsonl", row), dialogue_column="dialog", **options)
    assert shown(examples) == [("b06", [("Customer", "My lamp is dark. Help!"), ("Agent", "Ok.")], ["A. B.", "C."])]


def test_tweetsumm_without_its_tweets_is_refused(tmp_path: Path) -> None:
    """The authors' repository has the ids of the tweets, and no texts."""
    row = {
        "conversation_id": "b06",
        "tweet_ids_sentence_offset": [{"tweet_id": 1, "sentence_offsets": ["[0, 9]"]}],
        "annotations": [{"extractive": [], "abstractive": ["A.", "B."]}],
    }
    path = write_lines(tmp_path / "final_train_tweetsum.jsonl", row)
    with pytest.raises(InputError, match="has no column dialogue, summary: there are conversation_id, tweet_ids_s"):
        load(path)
    options = {"dialogue_column": "tweet_ids_sentence_offset", "summary_columns": ["annotations.0.abstractive"]}
    with pytest.raises(InputError, match="turn 1 has no text under a known key: it has tweet_id, sentence_offsets"):
        load(path, **options)


def test_mediasum(tmp_path: Path) -> None:
    """Speakers in a list of their own; names with commas and roles."""
    row = {
        **{"id": "NPR-1", "program": "News", "date": "2026-01-02", "url": "x", "title": "Lamps"},
        **{"summary": "Lamps are sold.", "utt": ["Welcome: we begin.", "Hi."], "speaker": ["OLA HOLM, HOST", "PER"]},
    }
    options = {"dialogue_column": "utt", "speaker_column": "speaker"}
    turns = [("OLA HOLM, HOST", "Welcome: we begin."), ("PER", "Hi.")]
    path = write_json(tmp_path / "news_dialogue.json", [row])
    assert shown(load(path, **options)) == [("NPR-1", turns, ["Lamps are sold."])]


def test_summscreen(tmp_path: Path) -> None:
    """Tokenised lines with and without a speaker, in a list; the recap is a list of one text."""
    lines = ["[ The kitchen . ]", "Ola : It 's dark .", "Per : Yes : very .", "( He leaves . )"]
    row = {"filename": "Lamp_01x02.json", "Transcript": lines, "Recap": ["Ola and Per sit in the dark ."]}
    options = {"summary_columns": ["Recap"], "id_column": "filename"}
    turns = [(None, lines[0]), ("Ola", "It 's dark ."), ("Per", "Yes : very ."), (None, lines[3])]
    path = write_lines(tmp_path / "fd_train.json", row)
    assert shown(load(path, **options)) == [("Lamp_01x02.json", turns, ["Ola and Per sit in the dark ."])]


def test_crd3(tmp_path: Path) -> None:
    """A file of chunks for each episode; several players may speak together."""
    turns = [
        {"NAMES": ["OLA"], "UTTERANCES": ["I open", "the door."], "NUMBER": 0},
        {"NAMES": ["PER", "LIV"], "UTTERANCES": ["No!"], "NUMBER": 1},
    ]
    alignment = {"CHUNK ID": 0, "TURN START": 0, "TURN END": 1, "ALIGNMENT SCORE": 0.5}
    for name in ("E001_2_0.json", "E002_2_0.json"):
        write_json(tmp_path / name, [{"CHUNK": f"In {name} a door opens.", "ALIGNMENT": alignment, "TURNS": turns}])
    examples = load(tmp_path / "E*.json", summary_columns=["CHUNK"])
    references = [f"In {name} a door opens." for name in ("E001_2_0.json", "E002_2_0.json")]
    said = [("OLA", "I open the door."), ("PER and LIV", "No!")]
    assert shown(examples) == [("E001_2_0.json:1", said, references)]
    assert "dialogues taken from TURNS" in examples.notes[0]


def test_todsum(tmp_path: Path) -> None:
    """Turns without speakers; the summary is a list of sentences."""
    row = {"dialog_id": "P1.json", "text": ["I need a room.", "For when?"], "dst": {}, "summary": ["a.", "b."]}
    path = write_json(tmp_path / "train.json", [row])
    examples = load(path, dialogue_column="text", id_column="dialog_id")
    assert shown(examples) == [("P1.json", [(None, "I need a room."), (None, "For when?")], ["a. b."])]
    assert "1 of 1 dialogues have one speaker or none" in examples.notes[0]


def test_meetingbank(tmp_path: Path) -> None:
    """A transcript without speakers."""
    row = {"id": 0, "uid": "Seattle_1", "summary": "A lamp is bought.", "transcript": "Item five. The lamp. Agreed."}
    examples = load(write_lines(tmp_path / "train.jsonl", row))
    assert shown(examples) == [("0", [(None, "Item five. The lamp. Agreed.")], ["A lamp is bought."])]


def test_soda(tmp_path: Path) -> None:
    row = {"head": "x", "narrative": "Ola asks Per.", "dialogue": ["Hi: you?", "Yes."], "speakers": ["Ola", "Per"]}
    examples = load(write_lines(tmp_path / "a.jsonl", row), speaker_column="speakers", summary_columns=["narrative"])
    assert shown(examples) == [("1", [("Ola", "Hi: you?"), ("Per", "Yes.")], ["Ola asks Per."])]


def test_notechat(tmp_path: Path) -> None:
    row = {"data": "The patient has knee pain.", "conversation": "Doctor: Where?\n\nPatient: My knee."}
    examples = load(write_csv(tmp_path / "train.csv", row), summary_columns=["data"])
    assert shown(examples) == [("1", [("Doctor", "Where?"), ("Patient", "My knee.")], ["The patient has knee pain."])]


def test_files_for_finetuning_chat_models(tmp_path: Path) -> None:
    """The dialogue is the user's message and the summary the assistant's: OpenAI's and ShareGPT's keys."""
    dialogue, expected = "Ola: Hi.\nPer: Yes?", [("1", [("Ola", "Hi."), ("Per", "Yes?")], ["They greet."])]
    roles = [("system", "Summarise."), ("user", dialogue), ("assistant", "They greet.")]
    path = write_lines(tmp_path / "a.jsonl", {"messages": [{"role": who, "content": text} for who, text in roles]})
    assert shown(load(path, dialogue_column="messages.1.content", summary_columns=["messages.2.content"])) == expected
    turns = [{"from": who, "value": text} for who, text in [("human", dialogue), ("gpt", "They greet.")]]
    path = write_json(tmp_path / "b.json", [{"conversations": turns}])
    options = {"dialogue_column": "conversations.0.value", "summary_columns": ["conversations.1.value"]}
    assert shown(load(path, **options)) == expected


def test_sources_and_targets_in_files_of_their_own_are_refused(tmp_path: Path) -> None:
    """ConvoSumm and GupShup, as fairseq wants them: a line each in two files."""
    (tmp_path / "train.source").write_text("Ola: Hi. | Per: Yes?\n")
    (tmp_path / "train.target").write_text("They greet.\n")
    with pytest.raises(InputError, match=r"train.source: cannot read such a file, only .*; a row has a dialogue and"):
        load(tmp_path / "train.source")


def test_emailsum_without_its_emails_is_refused(tmp_path: Path) -> None:
    """The authors' file has the summaries; the emails come from the Avocado collection."""
    summary = {"thread_id": "a1", "num_of_emails": 3, "short_summary": {"content": "s"}, "long_summary": {}}
    path = write_json(tmp_path / "EmailSum_data.json", {"data": {"train": [summary], "test": [summary]}})
    with pytest.raises(InputError, match="has no column dialogue, summary: there are data; name yours with"):
        load(path)
