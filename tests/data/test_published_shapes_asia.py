"""Chinese and Korean datasets in the shapes in which their authors publish them; README.md has the table."""

from pathlib import Path

from dialogsum_sft import InputError

import pytest
from published_files import fields, load, shown, write_json, write_lines


def test_csds(tmp_path: Path) -> None:
    """Customer service; summaries of the whole, the user and the agent, each a list of sentences."""
    turns = [
        {"speaker": "Q", "turn": 0, "utterance": "灯坏了"},
        {"speaker": "A", "turn": 1, "utterance": "[姓名]您好：请稍等"},
    ]
    row = {
        **{"DialogueID": 17, "Session_id": "9a", "QRole": "user", "Dialogue": turns, "QA": [{"QueSumm": ["x"]}]},
        **{"FinalSumm": ["用户说灯坏了。", "客服请用户稍等。"], "UserSumm": ["灯坏了。"], "AgentSumm": ["请稍等。"]},
    }
    path = write_json(tmp_path / "train.json", [row])
    options = {"summary_columns": ["FinalSumm"], "summary_join": "", "id_column": "DialogueID"}
    expected = [("17", [("Q", "灯坏了"), ("A", "[姓名]您好：请稍等")], ["用户说灯坏了。客服请用户稍等。"])]
    assert shown(load(path, **options)) == expected


SPEAKERS, CONTEXT = [1, 2, 1], [["大家好。", "我们开始。"], ["好的。"], ["谢谢 大家。"]]
TURNS = [("Speaker 1", "大家好。我们开始。"), ("Speaker 2", "好的。"), ("Speaker 1", "谢谢 大家。")]


def test_vcsum(tmp_path: Path) -> None:
    """Summaries in a file for each split, all transcripts in one; the .txt files have a JSON object a line."""
    meeting = {"av_num": 5, "speaker": SPEAKERS, "context": CONTEXT}
    write_lines(tmp_path / "overall_context.txt", *({"id": str(n)} | meeting for n in (3, 4)))
    path = write_lines(
        tmp_path / "long_train.txt", {"id": "3", "av_num": 5, "eos_index": [2], "summary": "会议开始。"}
    )
    options = {"dialogue_column": "context", "speaker_column": "speaker"}
    joined = load(path, dialogue_file=str(tmp_path / "overall_context.txt"), **options)
    assert shown(joined) == [("3", TURNS, ["会议开始。"])]
    whole = {"id": "0", "eos_index": [2], "speaker": SPEAKERS, "context": CONTEXT, "summary": "会议开始。"}
    assert shown(load(write_lines(tmp_path / "data_samples.txt", whole), **options)) == [("0", TURNS, ["会议开始。"])]


def test_a_summary_without_its_dialogue_is_counted(tmp_path: Path) -> None:
    context = write_lines(tmp_path / "contexts.jsonl", {"id": 1, "dialogue": "Ola: Hi."})
    rows = [{"id": 1, "summary": "a"}, {"id": 2, "summary": "b"}]
    path = write_lines(tmp_path / "train.jsonl", *rows)
    options = {"dialogue_file": str(context), "allow_dropped_rows": True}
    examples = load(path, **options)
    assert examples.rows["id"] == ["1"]
    assert dict(examples.counts.dropped) == {"no dialogue of id 2 in contexts.jsonl": 1}
    with pytest.raises(
        InputError, match=r"contexts.jsonl: row 1 has no key: name the id of both files by --id_column"
    ):
        load(path, id_column="key", **options)


def test_imcs21(tmp_path: Path) -> None:
    """Consultations by their numbers; two reports of named sections, of which one or several are references."""
    turns = [
        {"id": 1, "speaker": "患者", "sentence": "孩子咳嗽。", "dialogue_act": "x"},
        {"id": 2, "speaker": "医生", "sentence": "几天了？", "dialogue_act": "y"},
    ]
    reports = [{"主诉": "咳嗽。", "建议": "多喝水。"}, {"主诉": "孩子咳嗽。", "建议": "休息。"}]
    row = {"diagnosis": "感冒", "self_report": "咳嗽", "dialogue": turns, "report": reports}
    path = write_json(tmp_path / "train.json", {"100": row, "101": row | {"dialogue": turns[:1]}})
    said = [("患者", "孩子咳嗽。"), ("医生", "几天了？")]
    options = {"summary_columns": ["report.0.主诉", "report.1.主诉"]}
    references = ["咳嗽。", "孩子咳嗽。"]
    assert shown(load(path, **options)) == [("100", said, references), ("101", said[:1], references)]


def test_nikl(tmp_path: Path) -> None:
    """The summaries of daily conversations of the National Institute of Korean Language."""
    turns = [
        {"speaker": "SD2100504", "utterance": "저는 여행을 좋아해요."},
        {"speaker": "SD2100505", "utterance": "저도요."},
    ]
    row = {
        "id": "nikluge-sc-2023-train-000001",
        "input": {"conversation": turns, "subject_keyword": ["여행", "바다"]},
        "output": "두 화자는 여행을 좋아한다.",
    }
    options = {"dialogue_column": "input.conversation", "summary_columns": ["output"]}
    path = write_lines(tmp_path / "nikluge-sc-2023-train.jsonl", row)
    examples = load(path, instruction="주제는 {input.subject_keyword}이다.", **options)
    said = [(turn["speaker"], turn["utterance"]) for turn in turns]
    assert shown(examples) == [(row["id"], said, [row["output"]])]
    assert fields(examples) == [{"input.subject_keyword": "여행, 바다"}]


def test_ai_hub(tmp_path: Path) -> None:
    """AI-Hub's Korean dialogue summaries: the rows are in `data`, beside their number."""
    turns = [
        {"utteranceID": "U1", "turnID": "T1", "participantID": "P01", "date": "2020-01-02", "utterance": "뭐 해?"},
        {"utteranceID": "U2", "turnID": "T2", "participantID": "P02", "date": "2020-01-02", "utterance": "쉬어 ㅋㅋ"},
    ]
    info = {"numberOfParticipants": 2, "topic": "일상", "dialogueID": "d-1"}
    people = [{"participantID": "P01", "age": "20대"}, {"participantID": "P02", "age": "20대"}]
    row = {
        "header": {"dialogueInfo": info, "participantsInfo": people},
        "body": {"dialogue": turns, "summary": "P02는 쉬고 있다."},
    }
    path = write_json(tmp_path / "일상.json", {"numberOfItems": 1, "data": [row]})
    examples = load(
        path,
        dialogue_column="body.dialogue",
        summary_columns=["body.summary"],
        id_column="header.dialogueInfo.dialogueID",
        topic_column="header.dialogueInfo.topic",
    )
    assert shown(examples) == [("d-1", [("P01", "뭐 해?"), ("P02", "쉬어 ㅋㅋ")], ["P02는 쉬고 있다."])]
    assert examples.rows["topic"] == ["일상"]
