"""Python values across ranks. Every rank must make the same calls in the same order."""

from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def all_gather(value: Value) -> list[Value]:
    """Every rank's value, by rank."""
    values: list[Value] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Value) -> Value:
    """Rank 0's value, on every rank."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
