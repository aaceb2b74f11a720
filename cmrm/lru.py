"""A small bounded store: the most recently used values, up to so many bytes."""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Lru(Generic[T]):
    """Keeps values by key and forgets the least recently used ones beyond `limit` bytes; thread-safe."""

    def __init__(self, limit: int):
        self.limit = limit
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def get(self, key: str) -> T | None:
        """Return the value, now the most recently used, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def keep(self, key: str, value: T, nbytes: int) -> None:
        """Keep a value of `nbytes`; one that is larger than the limit is not kept."""
        if nbytes > self.limit:
            return
        with self._lock:
            self._values[key] = (value, nbytes)
            self._values.move_to_end(key)
            while self.nbytes > self.limit:
                self._values.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept values."""
        return sum(size for _, size in self._values.values())

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
