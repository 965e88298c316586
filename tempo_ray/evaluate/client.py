"""An OpenAI-compatible endpoint and prompts -> a reply to each, in their order.

Nothing is dropped: where there is no answer, the reply says why.
"""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import openai

from tempo_ray.config.serve import TOKEN_VARIABLE
from tempo_ray.errors import UserError
from tempo_ray.evaluate.task import Prompt
from tempo_ray.storage import read_bytes

TEMPERATURE = 0.0
RETRIES = 3


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. The token is sent to the endpoint and written nowhere."""

    url: str
    token: str | None
    max_tokens: int
    timeout_s: float
    concurrency: int
    """Requests in flight."""

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
def data_url(video: str) -> str:
    """A video file as a data: URL. Raises OSError."""
    return f"data:video/mp4;base64,{base64.b64encode(read_bytes(video)).decode()}"


def content(prompt: Prompt) -> list[dict[str, Any]]:
    """The content parts of a user message. Raises OSError where the video cannot be read."""
    text = {"type": "text", "text": prompt.text}
    if prompt.video is None:
        return [text]
    return [{"type": "video_url", "video_url": {"url": data_url(prompt.video)}}, text]


async def served_models(endpoint: Endpoint) -> dict[str, str]:
    """Model id -> what the endpoint says of the model, as JSON.

    Raises UserError, within seconds, where the endpoint cannot be asked at all.
    """
    try:
        async with endpoint.client(retries=1, timeout_s=10.0) as client:
            cards = (await client.models.list()).data
            return {
                card.id: json.dumps(card.model_dump(), sort_keys=True, default=str)
                for card in cards
            }
    except openai.AuthenticationError as error:
        raise UserError(
            f"{endpoint.url} refuses the token; set {TOKEN_VARIABLE} to the one it was started with"
        ) from error
    except openai.APIStatusError as error:
        raise UserError(
            f"{endpoint.url} answers {error.status_code} to a request for its models"
        ) from error
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"no OpenAI-compatible endpoint answers at {endpoint.url} ({type(error).__name__})"
        ) from error


async def ask_all(endpoint: Endpoint, model: str, prompts: Sequence[Prompt]) -> list[Reply]:
    """Replies in the order of the prompts; retries connection errors and statuses from 500."""
    in_flight = asyncio.Semaphore(endpoint.concurrency)
    reading = asyncio.Lock()
    async with endpoint.client() as client:

        async def ask(prompt: Prompt) -> Reply:
            async with in_flight:
                try:
                    # One at a time, so that the questions about a video read it once; in a thread,
                    # so that a slow store does not hold up the requests in flight.
                    async with reading:
                        parts = await asyncio.to_thread(content, prompt)
                except OSError as error:
                    return _failed(error)
                return await _ask(client, endpoint, model, parts)

        return await asyncio.gather(*(ask(prompt) for prompt in prompts))


async def _ask(
    client: openai.AsyncOpenAI, endpoint: Endpoint, model: str, parts: list[dict[str, Any]]
) -> Reply:
    message: Any = {"role": "user", "content": parts}  # video_url is vLLM's own kind of part
    try:
        completion = await client.chat.completions.create(
            model=model,
            messages=[message],
            temperature=TEMPERATURE,
            max_tokens=endpoint.max_tokens,
        )
        choice = completion.choices[0]
        text: Any = choice.message.content
    except openai.APIStatusError as error:
        return Reply(None, f"{error.status_code}: {str(error.message)[:300]}")
    except openai.OpenAIError as error:
        return _failed(error)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        return _failed(error)  # the endpoint answered 200 with something else than a completion
    if not isinstance(text, str):
        return Reply(None, "the answer has no text", choice.finish_reason)
    return Reply(text, None, choice.finish_reason)


def _failed(error: Exception) -> Reply:
    return Reply(None, f"{type(error).__name__}: {str(error)[:300]}")
