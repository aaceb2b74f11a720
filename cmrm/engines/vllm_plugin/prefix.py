"""Names for a steered request's blocks in vLLM's prefix cache.

The cache finds the keys of a prompt's beginning by its tokens. Those of a steered token, and of all behind it, are
others than the tokens say: a longer prompt that goes on where a steered answer went would read them. So from the block
of the first steered token on, a request's blocks have names that no other request has. What comes before is shared as
ever: a steered request and its unsteered twin read the picture once.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.request import Request


def keep_apart(request: "Request", block: int, hasher: "Callable[[Request], list[bytes]]") -> None:
    """Give the blocks of a request of vLLM, from number `block` on, names that no other request has."""
    own = secrets.token_bytes(16)

    def named(first: int, names: list[bytes]) -> list[bytes]:
        return [
            hashlib.sha256(own + name).digest() if number >= block else name
            for number, name in enumerate(names, start=first)
        ]

    request.block_hashes[:] = named(0, request.block_hashes)
    request._block_hasher = lambda other: named(len(other.block_hashes), hasher(other))
