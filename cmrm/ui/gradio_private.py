"""Every name of Gradio that it does not document: what to look at when another version is installed."""

import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.utils import get_function_description, get_upload_folder
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like

Fetch = Callable[[str, Path], Awaitable[Path]]
Move = Callable[[str | Path | None], Awaitable[str | None]]


def find_upload(value: object) -> str | None:
    """Return the path of an upload, which Gradio has checked to be one; None for anything else."""
    return str(value["path"]) if isinstance(value, dict) and is_file_obj_with_meta(value) else None


def offer_download(blocks: gr.Blocks, name: str, write: Callable[[Path], object]) -> str:
    """Write a file that a visitor may download, under a path that nobody guesses; it is deleted as uploads are."""
    path = Path(get_upload_folder()) / secrets.token_hex(20) / name
    write(path)
    blocks.upload_file_set.add(str(path))
    return str(path)


def offer_endpoint(blocks: gr.Blocks, function: Callable[..., object], **options: object) -> None:
    """Offer a function by its name; its docstring says what each parameter and each return is.

    Gradio shows that to MCP clients alone; this puts it on the API page and into `Client.view_api` as well.
    """
    fn = blocks.fns[gr.api(function, api_name=function.__name__, **options)["id"]]
    _, parameters, returns = get_function_description(function)
    for component, text in zip(fn.inputs, parameters.values(), strict=True):
        component.api_info()["additional_description"] = text
    for component, line in zip(fn.outputs, returns, strict=True):
        component.label, _, text = line.partition(": ")
        component.api_info()["description"] = text


def read_queue(blocks: gr.Blocks, turn: str) -> tuple[int, int, float]:
    """Return how many events of a `concurrency_id` wait and run, and the mean seconds that one took."""
    held = blocks._queue.event_queue_per_concurrency_id.get(turn)
    if held is None:
        return 0, 0, 0.0
    taken = [total for fn, total in blocks._queue.process_time_per_fn.items() if fn.concurrency_id == turn]
    count = sum(total.count for total in taken)
    seconds = sum(total.process_time for total in taken) / count if count else 0.0
    return len(held.queue), held.current_concurrency, round(seconds, 2)


def replace_fetching(blocks: gr.Blocks, fetch: Fetch) -> None:
    """Let every component of a page fetch with `fetch` what a visitor names by URL."""
    for block in blocks.blocks.values():
        move = block.async_move_resource_to_block_cache
        block.async_move_resource_to_block_cache = partial(_fetch_or_move, block, fetch, move)


async def _fetch_or_move(block: gr.blocks.Block, fetch: Fetch, move: Move, place: str | Path | None) -> str | None:
    if place is None or not is_http_url_like(str(place)):
        return await move(place)
    path = str(await fetch(str(place), Path(block.GRADIO_CACHE)))
    block.temp_files.add(path)
    return path
