"""PyTorch's CUDA caching allocator as arithmetic: what it reserves for a sequence of allocations and frees.

Two pools (up to 1 MiB, larger), segments of 2 MiB, 20 MiB or the size in steps of 2 MiB, best fit, splitting, merging
of neighbours; with `expandable` one growing segment a pool. After c10/cuda/CUDACachingAllocator.cpp. No streams, no
garbage collection: what a single training process without an overflow does.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

MIB = 1 << 20
SMALL_BYTES, SMALL_SEGMENT_BYTES = MIB, 2 * MIB
MIDDLE_BYTES, LARGE_SEGMENT_BYTES, STEP_BYTES = 10 * MIB, 20 * MIB, 2 * MIB


@dataclass(eq=False)
class _Block:
    size: int
    number: int  # order of making: stands for the address
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None


class Allocator:
    """`reserved_bytes` now and at its highest, after `allocate(key, size)` and `release(key)` in program order."""

    def __init__(self, expandable: bool = False) -> None:
        self.expandable = expandable
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self._pools: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}
        self._tails: dict[bool, _Block | None] = {True: None, False: None}
        self._held: dict[int, _Block] = {}
        self._count = 0

    def allocate(self, key: int, size_bytes: int) -> None:
        """Take the best fitting free block, or a new segment."""
        size = max(512, -(-size_bytes // 512) * 512)
        small = size <= SMALL_BYTES
        pool = self._pools[small]
        place = bisect.bisect_left(pool, (size, -1))
        if place < len(pool):
            block = pool.pop(place)[2]
        else:
            block = self._grown(size, small) if self.expandable else self._segment(size, small)
        block.free = False
        rest = block.size - size
        if rest >= 512 if small or self.expandable else rest > SMALL_BYTES:
            self._split(block, size)
        self._held[key] = block

    def release(self, key: int) -> None:
        """Give a block back; free neighbours of its segment become one."""
        block = self._held.pop(key)
        block.free = True
        if (left := block.before) is not None and left.free:
            self._take(left)
            self._merge(left, block)
            block = left
        if (right := block.after) is not None and right.free:
            self._take(right)
            self._merge(block, right)
        self._put(block)

    def _segment(self, size: int, small: bool) -> _Block:
        if small:
            segment = SMALL_SEGMENT_BYTES
        elif size < MIDDLE_BYTES:
            segment = LARGE_SEGMENT_BYTES
        else:
            segment = -(-size // STEP_BYTES) * STEP_BYTES
        self._reserve(segment)
        return self._block(segment, small)

    def _grown(self, size: int, small: bool) -> _Block:
        """The end of the pool's one segment, with as many more pages as are missing."""
        page = SMALL_SEGMENT_BYTES if small else LARGE_SEGMENT_BYTES
        tail = self._tails[small]
        have = tail.size if tail is not None and tail.free else 0
        more = -(-(size - have) // page) * page
        self._reserve(more)
        if tail is not None and tail.free:
            self._take(tail)
            tail.size += more
            return tail
        block = self._block(more, small)
        block.before = tail
        if tail is not None:
            tail.after = block
        self._tails[small] = block
        return block

    def _split(self, block: _Block, size: int) -> None:
        rest = self._block(block.size - size, block.small)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        if self._tails[block.small] is block:
            self._tails[block.small] = rest
        rest.free = True
        self._put(rest)

    def _merge(self, left: _Block, right: _Block) -> None:
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left
        if self._tails[right.small] is right:
            self._tails[right.small] = left

    def _block(self, size: int, small: bool) -> _Block:
        self._count += 1
        return _Block(size, self._count, small)

    def _put(self, block: _Block) -> None:
        bisect.insort(self._pools[block.small], (block.size, block.number, block))

    def _take(self, block: _Block) -> None:
        pool = self._pools[block.small]
        del pool[bisect.bisect_left(pool, (block.size, block.number))]

    def _reserve(self, more: int) -> None:
        self.reserved_bytes += more
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
