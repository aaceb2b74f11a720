"""Pictures by URL: fetched from public addresses only, and bounded like an upload.

Gradio's own downloader guards addresses too, but takes files of any size for any time, and the model waits meanwhile.
"""

import asyncio
import ipaddress
import socket
import tempfile
from pathlib import Path
from urllib.parse import urljoin

import gradio as gr
import httpx
from safehttpx import AsyncSecureTransport

from ..errors import CmrmError, first_sentence

MOST_BYTES, SECONDS, HOPS = 50_000_000, 15.0, 4


async def fetch_for_page(url: str, folder: Path) -> Path:
    """Download a file as `fetch` does, for a component that a visitor gave its address."""
    try:
        return await fetch(url, folder)
    except CmrmError as error:
        raise gr.Error(str(error), print_exception=False) from error


async def fetch(url: str, folder: Path) -> Path:
    """Download a file into `folder`.

    Raises:
        CmrmError: an address that is not public, more than 50 MB or 15 s, or any failure of the other side.
    """
    try:
        async with asyncio.timeout(SECONDS):
            return await _follow(url, folder)
    except TimeoutError as error:
        raise _error(f"it took more than {SECONDS:g} s") from error
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise _error(first_sentence(error)) from error


def _error(reason: str) -> CmrmError:
    return CmrmError(f"The image could not be fetched from its address ({reason}); upload it instead.")


async def _follow(url: str, folder: Path) -> Path:
    for _ in range(HOPS):
        # The address that was checked is the one that is called, so that a name can't change its mind in between.
        transport = AsyncSecureTransport(await public_address(httpx.URL(url).host))
        async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", url) as response:
            if response.has_redirect_location:
                url = urljoin(url, response.headers["Location"])
                continue
            if response.status_code != 200:
                raise ValueError(f"it answered with status {response.status_code}")
            return await _store(response, folder)
    raise ValueError(f"it redirects more than {HOPS} times")


async def _store(response: httpx.Response, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=folder)) / "image"
    size = 0
    try:
        with path.open("wb") as file:
            async for part in response.aiter_bytes():
                size += len(part)
                if size > MOST_BYTES:
                    raise ValueError(f"it has more than {MOST_BYTES // 1_000_000} MB")
                file.write(part)
    except BaseException:
        path.unlink()
        path.parent.rmdir()
        raise
    return path


async def public_address(host: str) -> str:
    """Return an IP address of `host`.

    Raises:
        ValueError: one of its addresses is private, or of this machine; OSError: it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [str(place[0]) for *_, place in found]
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in addresses):
        raise ValueError("it is not a public address")
    return addresses[0]
