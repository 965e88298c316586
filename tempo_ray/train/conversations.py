"""A JSON or JSONL file of instruction data -> conversations.

Two layouts: LLaVA's (`video`, and `conversations` of `from` human or gpt) and chat messages
(`messages` of `role` system, user or assistant, with the video in the content or in `videos`). One
video, shown in the first question, and any number of turns.
"""

import json
from typing import Any

import pyarrow as pa

from tempo_ray.errors import UserError
from tempo_ray.storage import exists, parent, read_bytes, relative_to
from tempo_ray.train.examples import Conversation

VIDEO = "<video>"
_ROLES = {"human": "user", "gpt": "assistant"}


def read_conversations(file: str) -> list[Conversation]:
    """One conversation per item; video paths are relative to the file's folder.

    Raises:
        UserError: the file cannot be read or holds no conversations that can be trained on; names
            the item.
    """
    conversations = []
    for number, item in enumerate(_items(file)):
        try:
            conversations.append(_conversation(item, parent(file)))
        except KeyError as error:
            raise UserError(f"{file}: item {number} has no {error}") from error
        except (TypeError, AttributeError) as error:
            raise UserError(f"{file}: item {number} is not a conversation ({error})") from error
        except ValueError as error:
            raise UserError(f"{file}: item {number}: {error}") from error
    if not conversations:
        raise UserError(f"{file}: no conversations in it")
    return conversations


def _items(file: str) -> list[Any]:
    text = _text_of(file)
    if text.lstrip()[:1] == "[":
        try:
            items: list[Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}: not JSON: {error}") from error
        return items
    items = []
    # not splitlines: it would split at characters that JSON allows in a string
    for number, line in enumerate(text.split("\n"), 1):
        try:
            items += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise UserError(
                f"{file}: neither a JSON list nor JSONL: line {number}: {error}"
            ) from error
    return items


def _text_of(file: str) -> str:
    try:
        if not exists(file):
            raise UserError(f"{file}: no such file; name the conversations with sft.data=")
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text file ({error.reason})") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def _conversation(item: dict[str, Any], folder: str) -> Conversation:
    turns = _turns(item)
    system = None
    if turns and turns[0][0] == "system":
        system = _text(turns.pop(0)[1], "the system message")
    roles = [role for role, _ in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(
            f"turns are {', '.join(roles)}; questions and answers must alternate, and end with an "
            "answer"
        )
    parts, named = _parts(turns[0][1])
    videos = named or item.get("videos") or item["video"]
    videos = [videos] if isinstance(videos, str) else videos
    if parts.count(None) != 1 or len(videos) != 1:
        raise ValueError(
            f"{parts.count(None)} {VIDEO} marks and {len(videos)} videos; exactly one of each is "
            "supported"
        )
    questions = [_text(content, "a later question") for _, content in turns[2::2]]
    answer, *answers = [_text(content, "the answer") for _, content in turns[1::2]]
    return Conversation(
        uri=relative_to(folder, videos[0]),
        parts=tuple(parts),
        answer=answer,
        turns=tuple(zip(questions, answers, strict=True)),
        system=system,
    )


def _turns(item: dict[str, Any]) -> list[tuple[str, Any]]:
    """Role and content of each turn."""
    if "conversations" in item:
        return [
            (_ROLES.get(turn["from"], turn["from"]), turn["value"])
            for turn in item["conversations"]
        ]
    return [(turn["role"], turn["content"]) for turn in item["messages"]]


def _parts(content: Any) -> tuple[list[str | None], list[str]]:
    """A turn's content -> its parts, None standing for a video, and the videos that it names."""
    if content is None:
        return [], []
    if isinstance(content, str):
        return _split_at_videos(content), []
    for part in content:
        if part["type"] not in ("text", "video"):
            raise ValueError(f"a part of type {part['type']}; text and one video are supported")
    named = [part["video"] for part in content if part["type"] == "video" and "video" in part]
    return [None if part["type"] == "video" else part["text"] for part in content], named


def _split_at_videos(text: str) -> list[str | None]:
    parts: list[str | None] = []
    for number, piece in enumerate(text.split(VIDEO)):
        if number:
            parts.append(None)
        if piece.strip():
            parts.append(piece.strip("\n"))
    return parts


def _text(content: Any, role: str) -> str:
    parts, _ = _parts(content)
    if None in parts:
        raise ValueError(f"a {VIDEO} mark in {role}; the video is shown in the first question")
    text = "".join(part for part in parts if part)
    if not text:
        raise ValueError(f"{role} is empty")
    return text
