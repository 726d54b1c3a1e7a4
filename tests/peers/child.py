"""One peer in a process of its own: `python -m tests.peers.child NAME FOLDER`."""

import importlib
import sys

from tests.peers.job import Job, Turns

if __name__ == "__main__":
    name, folder = sys.argv[1:]
    job = Job.load(folder)
    turns = Turns(job.clock)
    peer = importlib.import_module(f"tests.peers.peer_{name}")
    train = peer.probe if job.workload == "probe" else peer.autoencoder
    turns.finish(train(job, turns))
