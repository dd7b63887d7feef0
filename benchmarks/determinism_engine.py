"""One real llama.cpp server, launched any way at all: `python -m benchmarks.determinism_engine JSON`; it prints its port.

The adapter launches none of these ways where strict is promised; that is why they are measured.
"""

from __future__ import annotations

import sys
import threading

import msgspec

from orchqueue.adapters.models import find_bundled

MODEL = "smollm2-135m-instruct-q4_1"


class Launch(msgspec.Struct, frozen=True):
    """The flags that vary; the values here are what the adapter takes for a strict replica on one core.

    Units: `ctx` tokens for each slot.
    """

    slots: int = 1
    cont_batching: bool = False
    threads: int = 1
    n_batch: int = 8
    n_ubatch: int = 8
    ctx: int = 1024
    cache_ram_mib: int = 0
    kv_unified: bool = False
    flash_attention: bool | None = None


def main() -> None:
    """Serve until killed."""
    import xllamacpp

    launch = msgspec.json.decode(sys.argv[1], type=Launch)
    params = xllamacpp.CommonParams()
    params.model.path = str(find_bundled(MODEL)[0])
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = launch.slots
    params.n_ctx = launch.ctx * launch.slots
    params.kv_unified = launch.kv_unified
    params.cont_batching = launch.cont_batching
    params.n_batch = launch.n_batch
    params.n_ubatch = launch.n_ubatch
    params.ctx_shift = False
    params.fit_params = False
    params.cache_ram_mib = launch.cache_ram_mib
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = launch.threads
    if launch.flash_attention is not None:
        kind = xllamacpp.llama_flash_attn_type
        on, off = kind.LLAMA_FLASH_ATTN_TYPE_ENABLED, kind.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = on if launch.flash_attention else off
    params.ui = False
    server = xllamacpp.Server(params)
    print(server.listening_address.rpartition(":")[2], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
