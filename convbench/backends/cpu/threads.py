"""Threads of the CPU algorithms: those of BLAS, and our own, to which chunks are dealt out."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")


@functools.cache
def blas() -> ThreadpoolController:
    """The BLAS of this process: finding it takes milliseconds, setting its threads microseconds."""
    return ThreadpoolController()


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """So many threads of our own."""
    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # a child has none of its parent's threads


@functools.cache
def _libraries() -> tuple[Any, ...]:
    return tuple(blas().select(user_api="blas").lib_controllers)


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Gives BLAS so many threads, and afterwards what it had; asking first is cheaper than setting."""
    if all(library.get_num_threads() == count for library in _libraries()):
        yield
        return
    with blas().limit(limits=count, user_api="blas"):
        yield


def spread(items: Sequence[Item], workers: int, function: Callable[[Item, int], object]) -> None:
    """function(item, worker) for each item, on so many threads.

    Worker w takes the items w, w + workers, …: always the same, so that sums over a worker's items are the same in each
    run.
    """

    def work(worker: int) -> None:
        for place in range(worker, len(items), workers):
            function(items[place], worker)

    if workers == 1:
        work(0)
    else:
        list(pool(workers).map(work, range(workers)))
