"""An HTTP request -> the same request, or a refusal, before any engine sees it.

With a token (TEMPO_RAY_TOKEN), every request but `/health` must show it. Without one, only this
machine may connect. A request carries its videos as `data:` URLs or names them by public http(s)
URLs, which the guard fetches itself: the engine never opens a file or an address that a client
named.
"""

import hashlib
import hmac
import ipaddress
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from tempo_ray.config import GuardConfig
from tempo_ray.config.serve import TOKEN_VARIABLE
from tempo_ray.errors import UserError
from tempo_ray.serve.fetch import Refusal, fetch_public

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MEDIA = {"video_url": "video", "image_url": "image"}
DATA_URL = re.compile(r"data:(video|image)/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def read_token() -> str | None:
    return os.environ.get(TOKEN_VARIABLE) or None


def digest(token: str | None) -> bytes | None:
    """SHA-256 of a token: all that the guard, and with it the cluster, knows of it."""
    return None if token is None else hashlib.sha256(token.encode()).digest()


def is_loopback(host: str) -> bool:
    """Whether a host name or address, with or without a port, means this machine."""
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host
    name = name.partition("]")[0].removeprefix("[")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None) -> None:
    """Raises UserError where other machines could reach the endpoint without a token."""
    if token is None and not is_loopback(host):
        raise UserError(
            f"host={host} can be reached from other machines: set {TOKEN_VARIABLE} to a secret, "
            "or host=127.0.0.1"
        )


class Guard:
    """ASGI middleware; `token` is a digest. Responses pass through it unchanged, streams too."""

    def __init__(self, app: App, config: GuardConfig, token: bytes | None) -> None:
        self.app = app
        self._config = config
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in scope["headers"]
            }
            self._admit(scope, headers)
            if scope["method"] == "POST":
                body = await self._read(headers, receive)
                body = await self._screen(headers, body)
                scope, receive = _with_body(scope, body, receive)
        except Refusal as refusal:
            return await refuse(refusal, send)
        return await self.app(scope, receive, send)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> None:
        if scope["path"] == "/health":
            return
        if self._token is None:
            # A web page can make a browser on this machine send requests here, under its own
            # host name.
            peer = scope["client"][0] if scope.get("client") else ""
            if not is_loopback(peer) or not is_loopback(headers.get("host", "")):
                raise Refusal(
                    403,
                    "this endpoint has no token and answers this machine only; "
                    f"set {TOKEN_VARIABLE} to open it",
                )
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token_digest = hashlib.sha256(token.strip().encode("latin-1")).digest()
        if not hmac.compare_digest(token_digest, self._token) or scheme.lower() != "bearer":
            raise Refusal(401, "missing or wrong token; send it as `Authorization: Bearer TOKEN`")

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes:
        limit = self._config.max_body_bytes
        too_large = Refusal(
            413, f"the request is larger than {limit} bytes; send a shorter or smaller video"
        )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Refusal(400, "the request ended early")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large
            if not message.get("more_body"):
                return b"".join(parts)

    async def _screen(self, headers: dict[str, str], body: bytes) -> bytes:
        """The body, with every http(s) URL of media replaced by what is there."""
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send JSON, with content-type: application/json")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "the body is not JSON") from error
        if not isinstance(request, dict):
            raise Refusal(400, "the body is not a JSON object")
        answers = request.get("n")
        if isinstance(answers, int) and answers > self._config.max_answers:
            raise Refusal(400, f"n is at most {self._config.max_answers}")
        fetched = False
        bytes_left = self._config.max_body_bytes - len(body)
        for media in media_parts(request):
            url = media["url"]
            if url[:5].lower() != "data:":
                media["url"] = await fetch_public(url, bytes_left, self._config.fetch_timeout_s)
                bytes_left -= len(media["url"])
                fetched = True
        return json.dumps(request).encode() if fetched else body


def media_parts(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The `{"url": ...}` of every video and image of a chat request.

    They are checked; any other kind of part raises Refusal.
    """
    parts = []
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            media = _media(part)
            if media is not None:
                parts.append(media)
    return parts


def _media(part: Any) -> dict[str, Any] | None:
    """The `{"url": ...}` of a content part; None for a text. Raises Refusal."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and part.keys() <= {"type", "text"}:
        return None
    if kind not in MEDIA or part.keys() != {"type", kind}:
        raise Refusal(
            400,
            'a content part is {"type": "text", "text": ...} or '
            '{"type": "video_url", "video_url": {"url": ...}}',
        )
    media = part[kind]
    if (
        not isinstance(media, dict)
        or not isinstance(media.get("url"), str)
        or not media.keys() <= {"url", "detail"}
    ):
        raise Refusal(400, f'{kind} is {{"url": "data:{MEDIA[kind]}/...;base64,..."}}')
    _check_url(kind, media["url"])
    return media


def _check_url(kind: str, url: str) -> None:
    scheme = url[:8].partition(":")[0].lower()
    if scheme not in ("data", "http", "https"):
        raise Refusal(
            400,
            f"{kind}: {scheme or 'such'} addresses are not opened; "
            "send a data: URL or a public http(s) URL",
        )
    if scheme == "data":
        match = DATA_URL.match(url)
        if match is None or match[1].lower() != MEDIA[kind]:
            raise Refusal(400, f"{kind}: not a data:{MEDIA[kind]}/...;base64,... URL")


def _with_body(scope: Scope, body: bytes, receive: Receive) -> tuple[Scope, Receive]:
    """The request with this body. After the body, `receive` is the client's again, so that a
    disconnect is noticed."""
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in (b"content-length", b"transfer-encoding")
    ]
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict[str, Any]:
        return unread.pop() if unread else await receive()

    return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}, replay


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error in the form that OpenAI clients read."""
    types = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
    default = "invalid_request_error" if status < 500 else "server_error"
    error_type = types.get(status, default)
    return {"error": {"message": message, "type": error_type, "param": None, "code": status}}


async def refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps(error_body(refusal.status, refusal.message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
