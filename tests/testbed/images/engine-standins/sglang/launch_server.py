"""Stand-in for `python3 -m sglang.launch_server`."""

from __future__ import annotations

import argparse

from standin import serve

from sglang.srt.server_args import ServerArgs

parser = argparse.ArgumentParser("launch_server.py")
ServerArgs.add_cli_args(parser)
given = parser.parse_args()
name = given.served_model_name or given.model_path
metrics = {"sglang:num_running_reqs": 0.0, "sglang:num_queue_reqs": 0.0} if given.enable_metrics else {}
info = {
    "model_path": given.model_path,
    "served_model_name": name,
    "tp_size": given.tensor_parallel_size,
    "max_total_num_tokens": 412000,
}
serve(given.host, given.port, name, given.context_length, metrics, info)
