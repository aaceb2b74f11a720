"""The growing cache holds what the stock one holds, whatever is done to it, and never writes into another's room."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig

from cmrm.model.kv_cache import ROOM, GrowingLayer, empty_cache, fan_out_cache

CONFIG = LlamaConfig(num_hidden_layers=2)
HEADS, SIZE = 2, 4

Doing = tuple[str, int]
doings = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from((1, 2, 5, ROOM, 2 * ROOM + 1))),
        st.tuples(st.just("crop"), st.integers(1, 3)),
        st.tuples(st.just("fan out"), st.integers(1, 3)),
        st.tuples(st.just("reorder"), st.integers(1, 3)),
    ),
    max_size=12,
)


def states(rows: int, positions: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, HEADS, positions, SIZE, generator=torch.Generator().manual_seed(seed))


def stock_fan_out(past: DynamicCache, rows: int) -> DynamicCache:
    copy = DynamicCache(config=CONFIG)
    for index, layer in enumerate(past.layers):
        if layer.get_seq_length():
            copy.update(layer.keys.repeat(rows, 1, 1, 1), layer.values.repeat(rows, 1, 1, 1), index)
    return copy


@settings(max_examples=60, deadline=None)
@given(doings)
def test_same_as_the_stock_cache(todo: list[Doing]) -> None:
    grown, stock = empty_cache(CONFIG), DynamicCache(config=CONFIG)
    kept: list[tuple[DynamicCache, list[torch.Tensor]]] = []  # what was fanned out, and what it held then
    rows = 1
    for number, (what, count) in enumerate(todo):
        if what == "append":
            for layer in range(2):
                new = states(rows, count, number), states(rows, count, number + 100)
                for one, other in zip(grown.update(*new, layer), stock.update(*new, layer), strict=True):
                    assert torch.equal(one, other)
        elif what == "crop" and stock.get_seq_length() > count:
            grown.crop(-count)
            stock.crop(-count)
        elif what == "reorder":
            order = torch.arange(count) % rows
            grown.reorder_cache(order)
            stock.reorder_cache(order)
            rows = count if stock.get_seq_length() else rows
        elif what == "fan out" and rows == 1:
            if stock.get_seq_length():
                kept.append((grown, [layer.keys.clone() for layer in grown.layers]))
            grown, stock = fan_out_cache(grown, count), stock_fan_out(stock, count)
            rows = count
        assert grown.get_seq_length() == stock.get_seq_length()
    for past, keys in kept:
        assert all(torch.equal(layer.keys, held) for layer, held in zip(past.layers, keys, strict=True))


def test_a_token_is_written_in_place() -> None:
    past = empty_cache(CONFIG)
    past.update(states(2, 10, 0), states(2, 10, 1), 0)
    layer = past.layers[0]
    assert type(layer) is GrowingLayer
    places = set()
    for _ in range(ROOM):
        past.update(states(2, 1, 2), states(2, 1, 3), 0)
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) == 1
