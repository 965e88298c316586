"""A public http(s) address -> a data: URL. Private addresses are never connected to, whatever a name resolves to."""

import asyncio
import base64
import ipaddress
import socket

import httpx

NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refusal(Exception):
    """A request that is not served: HTTP status and what to do about it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet. Addresses that carry another inside them are not."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in NAT64
    ):
        return False
    return ip.is_global and not ip.is_multicast


async def resolve_public(host: str, port: int) -> str:
    """One address of the host. Raises Refusal where any of its addresses is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refusal(400, f"{host}: no such host") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise Refusal(400, f"{host} is not a public address; send the video as a data: URL")
    return addresses[0]


async def fetch_public(url: str, limit: int, timeout_s: float) -> str:
    """The file behind the address, at most `limit` characters as a data: URL. Redirects are not followed. Raises Refusal."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Refusal(400, f"not an address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise Refusal(400, "only plain http(s) addresses are fetched")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        async with asyncio.timeout(timeout_s):
            # Connected to by the address that was checked: asked again, the name could resolve to another one.
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
                f"{url.host} answered {response.status_code}; name the file itself, redirects are not followed",
            )
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        data = bytearray()
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) * 4 // 3 > limit:
                raise Refusal(413, f"{url.host}: the file is too large")
    if not kind.startswith(("video/", "image/")):
        kind = "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
