"""A JSON or JSONL file of conversations -> groups without rejected answers.

Two layouts: LLaVA's (`video`, `conversations` of `from` human or gpt) and chat messages (`messages` of `role` system, user or
assistant, the video in the content or in `videos`). One video, shown in the first question; any number of turns.
"""

import json
import posixpath
from typing import Any

from tempo_ray.paths import read_bytes
from tempo_ray.train.curriculum import Group

VIDEO = "<video>"
_ROLES = {"human": "user", "gpt": "assistant"}


class BadConversations(ValueError):
    """The file does not hold conversations that can be trained on; the message names the item and the fix."""


def _items(file: str) -> list[Any]:
    try:
        text = read_bytes(file).decode("utf-8-sig")
        if text.lstrip()[:1] == "[":
            return json.loads(text)
    except UnicodeDecodeError as error:
        raise BadConversations(f"{file}: not a text file ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise BadConversations(f"{file}: not JSON: {error}") from error
    items = []
    for number, line in enumerate(
        text.split("\n"), 1
    ):  # splitlines would part at characters that JSON leaves in a string
        try:
            items += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise BadConversations(
                f"{file}: neither a JSON list nor JSONL: line {number}: {error}"
            ) from error
    return items


def _turns(item: dict[str, Any]) -> list[tuple[str, Any]]:
    if "conversations" in item:
        return [
            (_ROLES.get(turn["from"], turn["from"]), turn["value"])
            for turn in item["conversations"]
        ]
    return [(turn["role"], turn["content"]) for turn in item["messages"]]


def _content(content: Any) -> tuple[list[str | None], list[str]]:
    """A turn's content -> message parts, None standing for a video, and the videos that it names itself."""
    if content is None:
        return [], []
    if not isinstance(content, str):
        other = next(
            (part["type"] for part in content if part["type"] not in ("text", "video")), None
        )
        if other is not None:
            raise ValueError(f"a part of type {other}; text and one video are supported")
        named = [part["video"] for part in content if part["type"] == "video" and "video" in part]
        return [None if part["type"] == "video" else part["text"] for part in content], named
    parts: list[str | None] = []
    for number, text in enumerate(content.split(VIDEO)):
        parts += [None] if number else []
        parts += [text.strip("\n")] if text.strip() else []
    return parts, []


def _text(content: Any, whose: str) -> str:
    parts, _ = _content(content)
    if None in parts:
        raise ValueError(f"a {VIDEO} mark in {whose}; the video is shown in the first question")
    text = "".join(part for part in parts if part)
    if not text:
        raise ValueError(f"{whose} is empty")
    return text


def _group(item: dict[str, Any], folder: str) -> Group:
    turns = _turns(item)
    system = (
        _text(turns.pop(0)[1], "the system message") if turns and turns[0][0] == "system" else None
    )
    roles = [role for role, _ in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(
            f"turns are {', '.join(roles)}; questions and answers must alternate, and end with an answer"
        )
    parts, named = _content(turns[0][1])
    videos = named or item.get("videos") or item["video"]
    videos = [videos] if isinstance(videos, str) else videos
    if parts.count(None) != 1 or len(videos) != 1:
        raise ValueError(
            f"{parts.count(None)} {VIDEO} marks and {len(videos)} videos; exactly one of each is supported"
        )
    uri = videos[0] if "://" in videos[0] else posixpath.join(folder, videos[0])
    questions = [_text(content, "a later question") for _, content in turns[2::2]]
    answer, *answers = [_text(content, "the answer") for _, content in turns[1::2]]
    return Group(
        uri, tuple(parts), answer, system=system, later=tuple(zip(questions, answers, strict=True))
    )


def read_conversations(file: str) -> list[Group]:
    """One group per item; video paths are relative to the file's folder.

    Raises BadConversations, and FileNotFoundError where there is no such file.
    """
    groups = []
    for number, item in enumerate(_items(file)):
        try:
            groups.append(_group(item, posixpath.dirname(file)))
        except KeyError as error:
            raise BadConversations(f"{file}: item {number} has no {error}") from error
        except (TypeError, AttributeError) as error:
            raise BadConversations(f"{file}: item {number} is no conversation ({error})") from error
        except ValueError as error:
            raise BadConversations(f"{file}: item {number}: {error}") from error
    if not groups:
        raise BadConversations(f"{file}: no conversations in it")
    return groups
