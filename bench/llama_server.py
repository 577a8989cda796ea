#!/usr/bin/env python3
"""llama.cpp's own server, as the Python package xllamacpp carries it, under the arguments of llama-server.

    python3 -m venv v && v/bin/pip install xllamacpp
    PATH=$PWD/v/bin:$PATH node bench/farm-server.mjs --server bench/llama_server.py
"""

import argparse
import threading

import xllamacpp

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--host", default="127.0.0.1")
for name, value in (("port", 8080), ("ctx-size", 4096), ("parallel", 1), ("threads", 1), ("gpu-layers", 0)):
    parser.add_argument(f"--{name}", type=int, default=value)
arguments = parser.parse_args()

params = xllamacpp.CommonParams()
params.model.path = arguments.model
params.hostnames = [arguments.host]
params.port = arguments.port
params.n_ctx = arguments.ctx_size
params.n_parallel = arguments.parallel
params.cpuparams.n_threads = arguments.threads
params.n_gpu_layers = arguments.gpu_layers
server = xllamacpp.Server(params)
threading.Event().wait()
