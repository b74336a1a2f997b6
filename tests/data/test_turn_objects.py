"""Turns of exported chats as JSON: messages of the system, media, nested keys, HTML, parts that are no text."""

import json
import re
from pathlib import Path
from typing import Any

from dialogsum_sft import InputError
from dialogsum_sft.arguments import DataArguments
from dialogsum_sft.data.examples import load_examples
from dialogsum_sft.data.turn_lists import parse_turns
from dialogsum_sft.data.turn_objects import TurnKeys

import pytest
from trl import ScriptArguments

TWO = [("Ann", "Hi."), ("Bob", "Yes?")]


def read(turns: Any, **keys: str) -> tuple[list[tuple[str | None, str]], dict[str, int]]:
    dialogue, left_out = parse_turns(turns, TurnKeys(**keys))
    return [(turn.speaker, turn.text) for turn in dialogue.turns], dict(left_out)


def of(speaker: Any, text: Any, key: str = "user", **more: Any) -> dict[str, Any]:
    return {key: speaker, "text": text, **more}


@pytest.mark.parametrize(
    "media",
    [
        {"sender_name": "Bob", "photos": [], "timestamp_ms": 1},
        {"sender_name": "Bob", "sticker": {"uri": "x"}},
        {"sender_name": "Bob", "audio_files": [{"uri": "x"}]},
        {"sender_name": "Bob"},
        {},
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_message_without_a_text_among_others_is_skipped_and_counted(media: dict[str, Any], at: int) -> None:
    turns = [{"sender_name": "Ann", "content": "Hi."}, {"sender_name": "Bob", "content": "Yes?"}]
    assert read([*turns[:at], media, *turns[at:]]) == (TWO, {"skipped_turns": 1})


def test_events_without_the_named_key_are_left_out() -> None:
    chat = [
        {"type": "chat.memberjoin", "name": "Ann"},
        {"type": "chat.msg", "name": "Ann", "msg": "Hi."},
        {"type": "chat.rating", "name": "Ann", "new_rating": "good"},
        {"type": "chat.msg", "name": "Bob", "msg": "Yes?"},
    ]
    assert read(chat, text="msg") == (TWO, {"system_lines": 1, "skipped_turns": 1})


@pytest.mark.parametrize(
    "system",
    [
        *({"type": "message", "subtype": f"channel_{what}"} for what in ("join", "leave", "topic", "purpose", "name")),
        *(
            {"type": "message", "subtype": what}
            for what in ("group_join", "pinned_item", "bot_add", "channel_archive")
        ),
        *({"type": what} for what in ("RecipientAdd", "RecipientRemove", "Call", "ChannelPinnedMessage", "UserJoin")),
        *({"type": what} for what in ("GuildMemberJoin", "ChannelNameChange", "ThreadCreated", "GuildBoost")),
        {"type": "service", "actor": "Bob", "action": "invite_members"},
        *({"type": what} for what in ("system_join_channel", "system_header_change", "m.room.member", "system")),
        *({"messageType": what} for what in ("systemEventMessage", "ThreadActivity/AddMember", "Event/Call")),
        *({"t": what} for what in ("uj", "ul", "au")),
        {"type": 7, "channel_id": "1", "author": {"username": "Bob"}},
    ],
)
def test_messages_of_the_system_are_dropped_and_counted(system: dict[str, Any]) -> None:
    turns = [of("Ann", "Hi.", type="message"), of("Bob", "has joined.") | system, of("Bob", "Yes?", type="message")]
    assert read(turns) == (TWO, {"system_lines": 1})


@pytest.mark.parametrize("kind", ["message", "Default", "Reply", "me_message", "bot_message", "thread_broadcast", 19])
def test_other_kinds_of_messages_are_turns(kind: Any) -> None:
    assert read([of("Ann", "Hi.", subtype=kind), of("Bob", "Yes?", type=kind)]) == (TWO, {})


def test_a_kind_that_is_the_speaker_or_the_same_everywhere_is_no_system_message() -> None:
    roles = [{"type": "user", "text": "Hi."}, {"type": "system", "text": "Yes?"}]
    assert read(roles, speaker="type") == ([("user", "Hi."), ("system", "Yes?")], {})
    assert read(roles) == ([(None, "Hi."), (None, "Yes?")], {})
    assert read([of("Ann", "Hi.", type="call"), of("Bob", "Yes?", type="call")]) == (TWO, {})


@pytest.mark.parametrize(
    ("key", "who"),
    [
        ("user_profile.real_name", lambda name: {"user_profile": {"real_name": name, "name": "x"}}),
        ("author.nickname", lambda name: {"author": {"nickname": name, "name": "x"}}),
        ("from.user.displayName", lambda name: {"from": {"user": {"displayName": name}, "device": None}}),
        ("from.0.name", lambda name: {"from": [{"name": name}]}),
        ("a.b", lambda name: {"a.b": name}),
    ],
)
def test_dots_in_the_keys(tmp_path: Path, key: str, who: Any) -> None:
    turns = [who("Ann") | {"body": {"content": "Hi."}}, who("Bob") | {"body": {"content": "Yes?"}}]
    assert read(turns, speaker=key, text="body.content") == (TWO, {})
    assert load(tmp_path, turns, speaker_key=key, text_key="body.content") == "Ann: Hi.\nBob: Yes?"


def test_nested_names_are_found() -> None:
    """Slack's real name also for the messages of that user that do not repeat it."""
    slack = [of("U1", "Hi.", user_profile={"real_name": "Ann"}), of("U2", "Yes?"), of("U1", "No.")]
    assert read(slack)[0] == [("Ann", "Hi."), ("U2", "Yes?"), ("Ann", "No.")]
    teams = [
        {"from": {"device": None, "user": {"id": 1, "displayName": name}}, "body": {"content": text}}
        for name, text in TWO
    ]
    assert read(teams) == (TWO, {})


def load(folder: Path, turns: Any, **options: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"dialogue": turns, "summary": "s"}) + "\n")
    (row,) = load_examples(ScriptArguments(dataset_name=str(path)), DataArguments(**options), "train").rows
    return str(row["dialogue"])


@pytest.mark.parametrize(
    ("turns", "options", "message"),
    [
        ([of({"id": 1}, "Hi.")], {"speaker_key": "who"}, "the --speaker_key who; there are user.id, text"),
        ([of("Ann", "Hi.")], {"text_key": "msg"}, "the --text_key msg; there are user, text"),
        ([of({"id": 1}, "Hi.")], {"speaker_key": "user.name"}, "the --speaker_key user.name; there are user.id, text"),
        (json.dumps([of("Ann", "Hi.")]), {"speaker_key": "who"}, "the --speaker_key who; there are user, text"),
        ("Ann: Hi.", {"speaker_key": "who"}, "the --speaker_key who; there are none: dialogue is no list of objects"),
    ],
)
def test_a_key_that_no_turn_has_is_refused(tmp_path: Path, turns: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"no turn of the first rows has {message}")):
        load(tmp_path, turns, **options)


def test_named_keys_of_parallel_lists() -> None:
    lists = {"By": ["Ann", "Bob"], "Said": ["Hi.", "Yes?"], "text": ["x", "y"]}
    assert read(lists, speaker="By", text="Said") == (TWO, {})


def test_parts_that_are_no_text_are_counted() -> None:
    image, call = {"type": "image_url", "image_url": {"url": "x"}}, {"type": "tool_use", "id": "1", "input": {}}
    turns = [
        of("Ann", [{"type": "text", "text": "Hi."}, image, call]),
        of("Bob", "Yes?", tool_calls=[{"id": 1}]),
        of("Bob", [image]),
    ]
    assert read(turns) == (TWO, {"skipped_parts": 3, "skipped_turns": 1})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>Hi Tom &amp; Ann,</p>\n<p>it&#39;s <b>late</b>.<br/>Bye</p>", "Hi Tom & Ann,\nit's late.\nBye"),
        ('<div class="x"><p>One.</p><ul><li>Two</li></ul></div>', "One.\nTwo"),
        ("<p>a &lt; b&nbsp;c</p>", "a < b c"),
        ("<p>Look: </p><img src='x.png'>", "Look:"),
        ("<br>Hi<br>", "Hi"),
    ],
)
def test_html_becomes_text(body: str, text: str) -> None:
    assert read([of("Ann", body), of("Bob", "Yes?")]) == ([("Ann", text), ("Bob", "Yes?")], {"html_texts": 1})


@pytest.mark.parametrize("body", ["write <b>this</b> now", "<p> is a tag", "<name> hi </name>", "a &amp; b", "<3"])
def test_other_texts_with_angle_brackets_are_kept(body: str) -> None:
    assert read([of("Ann", body)]) == ([("Ann", body)], {})
