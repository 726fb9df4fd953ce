"""Stand-in for SGLang's `sglang.srt.server_args`, with its names of flags."""

from __future__ import annotations

import argparse


class ServerArgs:
    def __init__(self, given: dict[str, object]) -> None:
        self.given = given

    @classmethod
    def from_cli_args(cls, arguments: argparse.Namespace) -> ServerArgs:
        return cls(vars(arguments))

    def check_server_args(self) -> None:
        """One of the checks of the real class."""
        assert ":" not in str(self.given["served_model_name"]), "served_model_name cannot contain a colon (':') character."

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model-path", "--model", required=True)
        parser.add_argument("--served-model-name")
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=30000)
        parser.add_argument("--context-length", type=int, default=4096)
        parser.add_argument("--max-running-requests", type=int, default=16)
        parser.add_argument("--mem-fraction-static", type=float)
        parser.add_argument("--tensor-parallel-size", "--tp-size", type=int, default=1)
        parser.add_argument(
            "--kv-cache-dtype", choices=["auto", "fp8_e5m2", "fp8_e4m3", "bf16", "bfloat16", "fp4_e2m1"], default="auto"
        )
        parser.add_argument("--reasoning-parser")
        parser.add_argument("--tool-call-parser")
        parser.add_argument("--api-key")
        parser.add_argument("--enable-metrics", action="store_true")
