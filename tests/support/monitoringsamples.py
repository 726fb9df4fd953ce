"""An exposition of watch for a host that the test-bed cannot be: vLLM under load, a serve that was given up, cards, disks."""

from __future__ import annotations

import time
from dataclasses import replace

from ansible_collections.anvil.serving.plugins.module_utils.host.disk_places import Disk
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import CardHealth
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import CardSnapshot
from ansible_collections.anvil.serving.plugins.module_utils.watch import counters
from ansible_collections.anvil.serving.plugins.module_utils.watch.exposition import OwnFigures, ServeFigures, format_metrics
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_look import HostFigures
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_survey import LiveRevision, Survey

CARD = "GPU-00000001-aaaa-4aaa-8aaa-000000000000"


def record_exposition() -> str:
    """As the program writes it. Counters grow with the time, or their rates would say nothing."""
    moved = time.time() % 1e6
    latency = counters.Histogram({"0.5": moved / 2, "1": moved, "+Inf": moved}, moved * 0.6, moved)
    values = {
        counters.RUNNING: 8.0,
        counters.WAITING: 12.0,
        counters.FINISHED: moved,
        counters.PREEMPTED: moved,
        counters.KV_USE: 0.97,
        counters.KV_TOKENS: 463459.0,
        counters.PROMPT: moved * 100,
        counters.GENERATED: moved * 100,
    }
    histograms = {counters.DURATION: latency, counters.FIRST_TOKEN: latency}
    busy = ServeFigures("heavy", "vllm", "busy", True, 0.5, 92.0, None, 0, 0, 0, False, values, histograms, "qwen3-32b", "chat")
    hung = ServeFigures("embed", "vllm", "hung", False, 900.0, 41.0, 3.0, 3, 0, 3, True, {}, {}, "qwen3-embed", "embeddings")
    live = LiveRevision("anvil-router", "0123456789ab", time.time() - 3600)
    survey = Survey({"heavy": True}, {CARD: 4e10}, {CARD: 8e10}, (live,), {"/etc/x.pem": time.time() + 1e6}, time.time())
    card = CardSnapshot(0, CARD, "NVIDIA H200", "00000000:01:00.0", "580.1", memory_total=85 << 30, memory_used=60 << 30)
    card = replace(card, utilisation=0.9, temperature=71.0, power=640.0, power_limit=700.0, uncorrected=0)
    disk = Disk("data", "/var/lib/anvil", 10 << 30, 100 << 30)
    host = HostFigures((CardHealth(card),), True, time.time(), (disk,))
    return format_metrics([busy, hung], OwnFigures(True, moved, 3e7, time.time() - 1e5), survey, host)
