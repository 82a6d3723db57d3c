"""PyTorch's CUDA caching allocator as arithmetic: what it reserves for a sequence of allocations and frees.

Two pools (up to 1 MiB, larger), segments of 2 MiB, 20 MiB or the size in steps of 2 MiB, best fit, splitting, merging
of neighbours; with `expandable` one growing segment per pool. After c10/cuda/CUDACachingAllocator.cpp. No streams and
no garbage collection: what a single training process does that never runs out of memory.
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
    number: int  # order of creation: stands for the address
    small: bool
    free: bool = False
    previous: _Block | None = None
    next: _Block | None = None


class Allocator:
    """`reserved_bytes` now and at its peak, after `alloc(key, size)` and `free(key)` in program order."""

    def __init__(self, expandable: bool = False) -> None:
        self.expandable = expandable
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self._pools: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}  # free blocks, by small
        self._tails: dict[bool, _Block | None] = {True: None, False: None}  # last block of a growing segment
        self._allocated: dict[int, _Block] = {}
        self._blocks_created = 0

    def alloc(self, key: int, size_bytes: int) -> None:
        """Use the best fitting free block, or a new segment."""
        size = max(512, -(-size_bytes // 512) * 512)
        small = size <= SMALL_BYTES
        pool = self._pools[small]
        position = bisect.bisect_left(pool, (size, -1))
        if position < len(pool):
            block = pool.pop(position)[2]
        else:
            block = self._grow_segment(size, small) if self.expandable else self._new_segment(size, small)
        block.free = False
        rest = block.size - size
        if rest >= 512 if small or self.expandable else rest > SMALL_BYTES:
            self._split(block, size)
        self._allocated[key] = block

    def free(self, key: int) -> None:
        """Return a block to its pool; free neighbours in its segment are merged."""
        block = self._allocated.pop(key)
        block.free = True
        if (left := block.previous) is not None and left.free:
            self._remove_from_pool(left)
            self._merge(left, block)
            block = left
        if (right := block.next) is not None and right.free:
            self._remove_from_pool(right)
            self._merge(block, right)
        self._add_to_pool(block)

    def _new_segment(self, size: int, small: bool) -> _Block:
        if small:
            segment = SMALL_SEGMENT_BYTES
        elif size < MIDDLE_BYTES:
            segment = LARGE_SEGMENT_BYTES
        else:
            segment = -(-size // STEP_BYTES) * STEP_BYTES
        self._reserve(segment)
        return self._new_block(segment, small)

    def _grow_segment(self, size: int, small: bool) -> _Block:
        """The end of the pool's one segment, with as many more pages as are missing."""
        page = SMALL_SEGMENT_BYTES if small else LARGE_SEGMENT_BYTES
        tail = self._tails[small]
        available = tail.size if tail is not None and tail.free else 0
        added = -(-(size - available) // page) * page
        self._reserve(added)
        if tail is not None and tail.free:
            self._remove_from_pool(tail)
            tail.size += added
            return tail
        block = self._new_block(added, small)
        block.previous = tail
        if tail is not None:
            tail.next = block
        self._tails[small] = block
        return block

    def _split(self, block: _Block, size: int) -> None:
        rest = self._new_block(block.size - size, block.small)
        rest.previous, rest.next = block, block.next
        if block.next is not None:
            block.next.previous = rest
        block.next, block.size = rest, size
        if self._tails[block.small] is block:
            self._tails[block.small] = rest
        rest.free = True
        self._add_to_pool(rest)

    def _merge(self, left: _Block, right: _Block) -> None:
        left.size += right.size
        left.next = right.next
        if right.next is not None:
            right.next.previous = left
        if self._tails[right.small] is right:
            self._tails[right.small] = left

    def _new_block(self, size: int, small: bool) -> _Block:
        self._blocks_created += 1
        return _Block(size, self._blocks_created, small)

    def _add_to_pool(self, block: _Block) -> None:
        bisect.insort(self._pools[block.small], (block.size, block.number, block))

    def _remove_from_pool(self, block: _Block) -> None:
        pool = self._pools[block.small]
        del pool[bisect.bisect_left(pool, (block.size, block.number))]

    def _reserve(self, added: int) -> None:
        self.reserved_bytes += added
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
