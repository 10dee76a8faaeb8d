"""Pipes: messages and bytes one way, and there and back."""

import time
from typing import Any

from registry import clock, workload
from workloads import (
    DONE,
    children,
    give,
    payload,
    ping_pong,
    send_back,
    take,
    take_and_sum,
    take_until_done,
)

IDLE_S = 1.0


@workload("pipe numbers", 10**5, "numbers through a pipe, one way")
def numbers(mp: Any, n: int) -> float:
    reader, writer = mp.Pipe()
    with children(mp, (take_until_done, reader.recv)):
        start = clock()
        give(writer.send, n)
        writer.send(DONE)
    return (clock() - start) / n


def sent_bytes(name: str, length: int, n: int, goal: float) -> None:
    @workload(name, n, f"send_bytes and recv_bytes of {length} bytes, one way", goal=goal)
    def run(mp: Any, n: int) -> float:
        reader, writer = mp.Pipe(False)
        data = bytes(length)
        with children(mp, (take, reader.recv_bytes, n)):
            start = clock()
            for _ in range(n):
                writer.send_bytes(data)
        return (clock() - start) / n


sent_bytes("pipe 64 B", 64, 100_000, 8)
sent_bytes("pipe 64 KB", 1 << 16, 10_000, 4)
sent_bytes("pipe 16 MB", 1 << 24, 40, 5)


@workload("pipe 8 MB array", 40, "numpy arrays that the reader sums", goal=15)
def arrays(mp: Any, n: int) -> float:
    array = payload("array")
    reader, writer = mp.Pipe()
    with children(mp, (take_and_sum, reader.recv, n)):
        start = clock()
        for _ in range(n):
            writer.send(array)
    return (clock() - start) / n


@workload("pipe ping-pong", 10_000, "median lap: a number there and back", goal=4)
def pipe_ping_pong(mp: Any, n: int) -> float:
    here, there = mp.Pipe()
    with children(mp, (send_back, there.recv, there.send)):
        return ping_pong(n, here.send, here.recv)


@workload("pipe idle", 1, "CPU seconds per second of waiting for a message", most=0.001)
def idle(mp: Any, n: int) -> float:
    here, _there = mp.Pipe()
    before = time.process_time()
    here.poll(IDLE_S)
    return (time.process_time() - before) / IDLE_S
