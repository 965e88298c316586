"""HTTP requests -> metrics, by status, of all that the endpoint answers, refusals included."""

import time
from typing import Any

from tempo_ray import metrics
from tempo_ray.serve.guard import App, Receive, Scope, Send


class Metered:
    """ASGI middleware around the guard."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = time.monotonic()
        status = ended = 0

        async def watched(message: dict[str, Any]) -> None:
            nonlocal status, ended
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                ended = status

        try:
            await self.app(scope, receive, watched)
        finally:
            metrics.REQUESTS.add(1, status=str(ended))
            if scope["method"] == "POST":
                metrics.REQUEST_TIME.observe(time.monotonic() - began, status=str(ended))
