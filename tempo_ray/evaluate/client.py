"""An OpenAI-compatible endpoint and questions about videos -> one row per question, answered or not.

Nothing is dropped: a question that got no answer keeps its row, with the reason, and counts as unanswered.
"""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import openai

from tempo_ray.evaluate.tasks.shapeworld import Question

RETRIES = 3


class NoEndpoint(Exception):
    """The endpoint cannot be asked at all; the message says why."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. The token is shown to the endpoint and to nobody else."""

    url: str
    token: str | None
    max_tokens: int
    timeout_s: float
    concurrency: int

    def client(self, retries: int = RETRIES, timeout_s: float | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self.token or "none",
            timeout=timeout_s or self.timeout_s,
            max_retries=retries,
        )


@dataclass(frozen=True)
class Reply:
    """`text` is None where there is no answer; `error` says why."""

    text: str | None
    error: str | None
    finish_reason: str | None = None


@lru_cache(maxsize=64)
def data_url(video: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode()}"


def message(question: Question) -> list[dict[str, Any]]:
    video = {"type": "video_url", "video_url": {"url": data_url(question.video)}}
    return [{"role": "user", "content": [video, {"type": "text", "text": question.text}]}]


async def served_models(endpoint: Endpoint) -> dict[str, str]:
    """Model id -> what the endpoint says of it, as JSON. Raises NoEndpoint, within seconds."""
    try:
        async with endpoint.client(retries=1, timeout_s=10.0) as client:
            cards = (await client.models.list()).data
            return {
                card.id: json.dumps(card.model_dump(), sort_keys=True, default=str)
                for card in cards
            }
    except openai.AuthenticationError as error:
        raise NoEndpoint(
            f"{endpoint.url} refuses the token; set TEMPO_RAY_TOKEN to the one it was started with"
        ) from error
    except openai.APIStatusError as error:
        raise NoEndpoint(
            f"{endpoint.url} answers {error.status_code} to a list of its models"
        ) from error
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
        raise NoEndpoint(
            f"no OpenAI-compatible endpoint answers at {endpoint.url} ({type(error).__name__})"
        ) from error


async def _ask(
    client: openai.AsyncOpenAI, endpoint: Endpoint, model: str, question: Question
) -> Reply:
    try:
        answer = await client.chat.completions.create(
            model=model,
            messages=message(question),  # type: ignore[arg-type]
            temperature=0.0,
            max_tokens=endpoint.max_tokens,
        )
        choice = answer.choices[0]
        if not isinstance(choice.message.content, str):
            return Reply(None, "the answer has no text", choice.finish_reason)
        return Reply(choice.message.content, None, choice.finish_reason)
    except openai.APIStatusError as error:
        return Reply(None, f"{error.status_code}: {str(error.message)[:300]}")
    except (
        openai.OpenAIError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        # the last four: the endpoint answered 200 with something that is no chat completion
        return Reply(None, f"{type(error).__name__}: {str(error)[:300]}")


async def ask_all(endpoint: Endpoint, model: str, questions: Sequence[Question]) -> list[Reply]:
    """Every reply, in the order of the questions; `endpoint.concurrency` in flight. Connection errors and 5xx are tried again."""
    gate = asyncio.Semaphore(endpoint.concurrency)
    async with endpoint.client() as client:

        async def ask(question: Question) -> Reply:
            async with gate:
                return await _ask(client, endpoint, model, question)

        return await asyncio.gather(*(ask(question) for question in questions))
