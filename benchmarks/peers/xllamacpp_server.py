"""Runs in xllamacpp's own environment: serves a model until it is told to end. MODEL PORT N_PARALLEL N_CTX EMBEDDING"""

from __future__ import annotations

import signal
import sys
import threading

import xllamacpp  # type: ignore[import-not-found]


def main() -> None:
    model, port, n_parallel, n_ctx, is_embedding = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port = int(port)
    params.n_parallel = int(n_parallel)
    params.n_ctx = int(n_ctx)
    if is_embedding == "1":
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while not ended.wait(0.5):
        pass


if __name__ == "__main__":
    main()
