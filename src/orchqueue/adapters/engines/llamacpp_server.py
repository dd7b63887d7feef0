"""Run one llama.cpp server in this process: `python -m orchqueue.adapters.engines.llamacpp_server`, its settings in the environment.

The port is chosen by the kernel when the server binds, and told through the descriptor that the launcher names: nobody can take it
in between. Settings and the key that callers must show come by environment, which other users cannot read.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Literal

import msgspec

from orchqueue.adapters.gguf import read_head
from orchqueue.adapters.processes.launcher import READY_VARIABLE

SETTINGS_VARIABLE = "ORCHQUEUE_LLAMACPP"
EXIT_NO_ENGINE = 78


class ServerSettings(msgspec.Struct, frozen=True):
    """How the server is launched.

    Units: `ctx` tokens for each slot; `gpu_devices` is how many GPUs the mask holds, 0 for the CPU.
    """

    model_path: str
    api_key: str
    ctx: int
    slots: int = 1
    gpu_devices: int = 0
    tensor_split: tuple[float, ...] = ()
    threads: int = 0
    n_batch: int = 8
    n_ubatch: int = 8
    cache_ram_mib: int = 0
    flash_attention: bool | None = None
    port: int = 0
    workload: Literal["completion", "embedding", "rerank"] = "completion"
    pooling: str = ""


def main() -> int:
    """Start the server, tell its port, and stay."""
    settings = msgspec.json.decode(os.environ[SETTINGS_VARIABLE], type=ServerSettings)
    try:
        import xllamacpp
    except ImportError as error:
        sys.stderr.write(f"llama.cpp is not installed ({error}); install it with: pip install 'orchqueue[llamacpp]'\n")
        return EXIT_NO_ENGINE
    if settings.gpu_devices and not _has_gpus(xllamacpp, settings.gpu_devices):
        sys.stderr.write(
            f"this build of llama.cpp sees fewer than {settings.gpu_devices} GPU(s); refusing to use the CPU\n"
        )
        return EXIT_NO_ENGINE
    server = xllamacpp.Server(_params(xllamacpp, settings))
    port = int(server.listening_address.rpartition(":")[2])
    ready = int(os.environ[READY_VARIABLE])
    os.write(ready, f"{port}\n".encode())
    os.close(ready)
    threading.Event().wait()
    return 0


def _has_gpus(xllamacpp: ModuleType, wanted: int) -> bool:
    found = [device for device in xllamacpp.get_device_info() if "GPU" in str(device["type"])]
    return len(found) >= wanted


def _params(xllamacpp: ModuleType, settings: ServerSettings) -> object:
    """Say every flag that decides the text or the memory, whatever the engine's defaults become."""
    params = xllamacpp.CommonParams()
    params.model.path = settings.model_path
    params.hostnames = ["127.0.0.1"]
    params.port = settings.port
    params.api_keys = [settings.api_key]
    params.n_parallel = settings.slots
    params.n_ctx = settings.ctx * settings.slots
    params.kv_unified = False
    params.cont_batching = settings.slots > 1
    params.n_batch = settings.n_batch
    params.n_ubatch = settings.n_ubatch
    params.ctx_shift = False
    params.fit_params = False
    params.cache_ram_mib = settings.cache_ram_mib
    params.n_gpu_layers = 999 if settings.gpu_devices else 0
    if settings.tensor_split:
        params.tensor_split = [*settings.tensor_split, *params.tensor_split[len(settings.tensor_split) :]]
    if settings.flash_attention is not None:
        kind = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = (
            kind.LLAMA_FLASH_ATTN_TYPE_ENABLED if settings.flash_attention else kind.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
    if settings.threads:
        params.cpuparams.n_threads = settings.threads
        params.cpuparams_batch.n_threads = settings.threads
    params.endpoint_metrics = params.endpoint_slots = params.endpoint_props = True
    params.ui = False
    if settings.workload != "completion":
        params.embedding = True
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{_pooling(settings)}")
    return params


def _pooling(settings: ServerSettings) -> str:
    """Name how one result is made of all tokens: a model made for embeddings says it in its file, for others the mean is usual."""
    if settings.workload == "rerank":
        return "RANK"
    metadata = read_head(Path(settings.model_path)).metadata
    told = f"{metadata.get('general.architecture')}.pooling_type" in metadata
    return (settings.pooling or ("unspecified" if told else "mean")).upper()


if __name__ == "__main__":
    sys.exit(main())
