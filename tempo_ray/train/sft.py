"""A JSON or JSONL file of conversations -> groups without rejected answers.

Two layouts: LLaVA's (`video`, `conversations` of `from` human or gpt) and chat messages (`messages` of `role` user or
assistant, the video in the content or in `videos`).
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
        text = read_bytes(file).decode()
        if text.lstrip()[:1] == "[":
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise BadConversations(f"{file}: not a text file ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise BadConversations(f"{file}: not JSON or JSONL: {error}") from error


def _turns(item: dict[str, Any]) -> list[tuple[str, Any]]:
    if "conversations" in item:
        return [(_ROLES.get(turn["from"], turn["from"]), turn["value"]) for turn in item["conversations"]]
    return [(turn["role"], turn["content"]) for turn in item["messages"]]


def _content(content: Any) -> tuple[list[str | None], list[str]]:
    """A turn's content -> message parts, None standing for a video, and the videos that it names itself."""
    if not isinstance(content, str):
        named = [part["video"] for part in content if part["type"] == "video" and "video" in part]
        return [None if part["type"] == "video" else part["text"] for part in content], named
    parts: list[str | None] = []
    for number, text in enumerate(content.split(VIDEO)):
        parts += [None] if number else []
        parts += [text.strip("\n")] if text.strip() else []
    return parts, []


def _group(item: dict[str, Any], folder: str) -> Group:
    turns = _turns(item)
    if [role for role, _ in turns] != ["user", "assistant"]:
        roles = ", ".join(role for role, _ in turns)
        raise ValueError(f"turns are {roles}; one question and one answer are supported: make each turn an item of its own")
    parts, named = _content(turns[0][1])
    answer, _ = _content(turns[1][1])
    videos = named or item.get("videos") or [item["video"]]
    if parts.count(None) != 1 or len(videos) != 1:
        raise ValueError(f"{parts.count(None)} {VIDEO} marks and {len(videos)} videos; exactly one of each is supported")
    text = "".join(part for part in answer if part)
    if not text:
        raise ValueError("the answer is empty")
    uri = videos[0] if "://" in videos[0] else posixpath.join(folder, videos[0])
    return Group(uri, tuple(parts), text)


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
