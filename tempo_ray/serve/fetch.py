"""A public http(s) URL -> a data: URL.

Private addresses are never connected to, whatever a host name resolves to.
"""

import asyncio
import base64
import ipaddress
import socket

import httpx

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refusal(Exception):
    """A request that is not served: its HTTP status, and what to do about it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet; one that embeds another address is not."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in _NAT64
    ):
        return False
    return ip.is_global and not ip.is_multicast


async def resolve_public(host: str, port: int) -> str:
    """An address of the host. Raises Refusal where any of its addresses is not public."""
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refusal(400, f"{host}: no such host") from error
    addresses = [str(entry[4][0]) for entry in entries]
    if not addresses or not all(is_public(address) for address in addresses):
        raise Refusal(400, f"{host} is not a public address; send the video as a data: URL")
    return addresses[0]


async def fetch_public(url: str, limit: int, timeout_s: float) -> str:
    """The file behind a URL as a data: URL of at most `limit` characters.

    Redirects are not followed. Raises Refusal.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Refusal(400, f"not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise Refusal(400, "only plain http(s) URLs are fetched")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        async with asyncio.timeout(timeout_s):
            # Connects to the address that was checked: a second look-up could return another one.
            address = await resolve_public(parsed.host, port)
            return await _download(parsed, address, port, limit)
    except (TimeoutError, httpx.HTTPError) as error:
        raise Refusal(
            400, f"{parsed.host}: could not be fetched ({type(error).__name__})"
        ) from error


async def _download(url: httpx.URL, address: str, port: int, limit: int) -> str:
    pinned = url.copy_with(host=address, port=port)
    headers = {"host": url.netloc.decode("ascii"), "accept-encoding": "identity"}
    extensions = {"sni_hostname": url.host}
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", pinned, headers=headers, extensions=extensions) as response,
    ):
        if response.status_code != 200:
            raise Refusal(
                400,
                f"{url.host} answered {response.status_code}; "
                "give the URL of the file itself, redirects are not followed",
            )
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        data = bytearray()
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) * 4 // 3 > limit:
                raise Refusal(413, f"{url.host}: the file is too large")
    if not media_type.startswith(("video/", "image/")):
        media_type = "video/mp4"
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
