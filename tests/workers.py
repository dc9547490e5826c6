"""Worker processes that train together, as Ray Train would start them."""

import multiprocessing
import os
import socket

import torch
import torch.multiprocessing as mp

_IMPORTED = ["mer_ray.train.engine"]
"""By the process that workers are forked from, once: DeepSpeed takes each of them many seconds otherwise."""


def start(work, *arguments, world):
    """Run ``work(rank, world, port, *arguments)`` in each of ``world`` processes; the first error is raised here."""
    multiprocessing.set_forkserver_preload(_IMPORTED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(work, args=(world, port, *arguments), nprocs=world, start_method="forkserver")


def take_place(rank, world, port):
    """Let DeepSpeed find the others."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
