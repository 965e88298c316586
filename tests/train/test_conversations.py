"""Instruction files as other tools write them."""

import json
from pathlib import Path

import pytest

from tempo_ray.errors import UserError
from tempo_ray.train.conversations import read_conversations
from tempo_ray.train.examples import Conversation

LLAVA = {
    "id": "1",
    "video": "videos/1.mp4",
    "conversations": [
        {"from": "human", "value": "<video>\nWhat is this?"},
        {"from": "gpt", "value": "A circle."},
    ],
}


def write(folder: Path, items: object, name: str = "data.json") -> str:
    text = json.dumps(items)
    if name.endswith(".jsonl") and isinstance(items, list):
        text = "\n".join(map(json.dumps, items))
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_llava(name: str, tmp_path: Path) -> None:
    expected = Conversation(f"{tmp_path}/videos/1.mp4", (None, "What is this?"), "A circle.")
    assert read_conversations(write(tmp_path, [LLAVA, LLAVA], name)) == [expected, expected]


def test_chat_messages(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "A circle."}
    parts = [{"type": "video", "video": "/abs/1.mp4"}, {"type": "text", "text": "What is this?"}]
    items = [
        {"messages": [{"role": "user", "content": parts}, answer]},
        {
            "messages": [{"role": "user", "content": "What is this?<video>"}, answer],
            "videos": ["s3://bucket/1.mp4"],
        },
    ]
    assert read_conversations(write(tmp_path, items)) == [
        Conversation("/abs/1.mp4", (None, "What is this?"), "A circle."),
        Conversation("s3://bucket/1.mp4", ("What is this?", None), "A circle."),
    ]


def test_conversations_of_many_turns(tmp_path: Path) -> None:
    later = [{"from": "human", "value": "And then?"}, {"from": "gpt", "value": "A square."}]
    turns = [{"from": "system", "value": "Be brief."}, *LLAVA["conversations"], *later]
    messages = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    for turn, role in zip(turns[1:], ("user", "assistant", "user", "assistant"), strict=True):
        messages.append({"role": role, "content": turn["value"]})
    items = [LLAVA | {"conversations": turns}, {"messages": messages, "videos": ["videos/1.mp4"]}]
    expected = Conversation(
        f"{tmp_path}/videos/1.mp4",
        (None, "What is this?"),
        "A circle.",
        turns=(("And then?", "A square."),),
        system="Be brief.",
    )
    assert read_conversations(write(tmp_path, items)) == [expected, expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": LLAVA["conversations"] * 2}, "shown in the first question"),
        ({"conversations": LLAVA["conversations"][:1]}, "must alternate"),
        ({"conversations": LLAVA["conversations"][::-1]}, "must alternate"),
        ({"conversations": []}, "must alternate"),
        ({"video": None}, "item 0"),
        (
            {"conversations": [{"from": "human", "value": "no mark"}, LLAVA["conversations"][1]]},
            "exactly one",
        ),
        (
            {"conversations": [LLAVA["conversations"][0], {"from": "gpt", "value": ""}]},
            "answer is empty",
        ),
        ({"conversations": [{"value": "?"}]}, "has no 'from'"),
    ],
)
def test_an_item_that_cannot_be_trained_on_is_named(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_conversations(write(tmp_path, [LLAVA | change]))


@pytest.mark.parametrize("text", ["", "[]", "[{", "not json", "[3]"])
def test_a_file_without_conversations_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=r"bad\.json"):
        read_conversations(str(tmp_path / "bad.json"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_conversations(str(tmp_path / "none.json"))


def test_files_as_other_tools_write_them(tmp_path: Path) -> None:
    """A byte order mark, and characters that end a line in Python but not in JSONL."""
    item = json.loads(json.dumps(LLAVA).replace("A circle.", "A circle.\u2028It moves."))
    line = json.dumps(item, ensure_ascii=False)
    for name, text in (("a.json", f"[{line}]"), ("a.jsonl", f"{line}\n{line}\n")):
        (tmp_path / name).write_text("\ufeff" + text)
        conversations = read_conversations(str(tmp_path / name))
        assert {conversation.answer for conversation in conversations} == {
            "A circle.\u2028It moves."
        }
    (tmp_path / "a.jsonl").write_text(f"{line}\n\n{line[:50]}\n")
    with pytest.raises(UserError, match="line 3"):
        read_conversations(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image"}, {"type": "text", "text": "?"}], "a part of type image"),
        ([{"type": "video_url", "video_url": {"url": "v"}}], "a part of type video_url"),
    ],
)
def test_parts_that_are_not_supported_are_named(
    content: object, message: str, tmp_path: Path
) -> None:
    item = {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "!"}],
        "video": ["v"],
    }
    with pytest.raises(UserError, match=message):
        read_conversations(write(tmp_path, [item]))


def test_a_video_in_a_list_and_an_answer_that_is_null(tmp_path: Path) -> None:
    assert read_conversations(write(tmp_path, [LLAVA | {"video": ["/v.mp4"]}]))[0].uri == "/v.mp4"
    turns = [LLAVA["conversations"][0], {"from": "gpt", "value": None}]
    with pytest.raises(UserError, match="item 0: the answer is empty"):
        read_conversations(write(tmp_path, [LLAVA | {"conversations": turns}]))
