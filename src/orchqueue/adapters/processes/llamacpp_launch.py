"""From a pool's launch settings to the settings of one llama.cpp server process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Literal

import msgspec

from orchqueue.adapters.engines.llamacpp_server import ServerSettings
from orchqueue.core.request import Workload
from orchqueue.ports.errors import ProcessError

Value = str | int | float | bool
INHERITED = ("CUDA_", "GGML_", "GOMP_", "KMP_", "LD_", "LLAMA_", "MALLOC_", "NVIDIA_", "OMP_")
"""Variables that change an engine though no configuration names them; others differ from start to start and say nothing."""


class SpawnSettings(msgspec.Struct, frozen=True):
    """How a pool's replicas are launched here.

    `devices`: the mask of each replica, by its id. `args`: flags in this adapter's words, see `LaunchArgs`.
    """

    pool_id: str
    ctx: int
    slots: int = 1
    strict: bool = True
    allow_cpu: bool = False
    devices: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    tensor_split: tuple[float, ...] = ()
    args: Mapping[str, Value] = MappingProxyType({})
    env: Mapping[str, str] = MappingProxyType({})
    model_ref: str = ""
    model_sha256: str | None = None
    replicas: int = 1
    workload: Workload = "completion"

    def expected_sha256(self, model_ref: str) -> str | None:
        """Give the checksum that the configuration demands: it speaks of the configured model only, not of a reload's."""
        return self.model_sha256 if model_ref == self.model_ref else None


class LaunchArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Flags that `launch.args` may hold; None: chosen for the device.

    `pooling`: how an embedding is made of the tokens' (mean, cls, last); the model's own way where not given, else mean.

    Units: `n_batch` and `n_ubatch` tokens read at once while a prompt is processed: an abort takes effect between two batches.
    """

    threads: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    cache_ram_mib: int | None = None
    flash_attention: bool | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    start_timeout_s: float = 600.0


def read_args(args: Mapping[str, Value]) -> LaunchArgs:
    """Check the flags.

    Errors: ProcessError that names the wrong one.
    """
    try:
        return msgspec.convert(dict(args), LaunchArgs)
    except msgspec.ValidationError as error:
        known = ", ".join(LaunchArgs.__struct_fields__)
        raise ProcessError("never_ready", f"launch.args: {error}; known are {known}") from error


def cuda_indices(devices: tuple[str, ...]) -> list[int]:
    """Pick the GPUs out of a device mask."""
    return [int(device.removeprefix("cuda:")) for device in devices if device.startswith("cuda:")]


def check_device(settings: SpawnSettings, devices: tuple[str, ...]) -> list[int]:
    """Say which GPUs a replica uses; none means the CPU, which must have been allowed.

    Errors: ProcessError.
    Req: ORCH-3018
    """
    gpus = cuda_indices(devices)
    if not gpus and not settings.allow_cpu:
        raise ProcessError(
            "cannot_fit",
            f"pool {settings.pool_id} names no GPU and does not set allow_cpu: true; nothing runs on the CPU unasked",
        )
    return gpus


def server_settings(settings: SpawnSettings, model_path: str, api_key: str, gpus: int) -> ServerSettings:
    """Fill in what the pool leaves open.

    On the CPU a batch is small, so that an abort is obeyed within a fraction of a second, and the replicas share the cores: more
    threads than cores make llama.cpp many times slower.
    """
    args = read_args(settings.args)
    cores = len(os.sched_getaffinity(0))
    completes = settings.workload == "completion"
    # An embedding is read in one batch, however long the text is.
    n_batch = args.n_batch or ((2048 if gpus else 8) if completes else settings.ctx)
    # Strict replicas must not keep state of earlier prompts; others may, within a bound.
    cache_ram_mib = args.cache_ram_mib if args.cache_ram_mib is not None else (0 if settings.strict else 512)
    return ServerSettings(
        model_path=model_path,
        api_key=api_key,
        ctx=settings.ctx,
        slots=settings.slots,
        gpu_devices=gpus,
        tensor_split=settings.tensor_split if gpus > 1 else (),
        threads=args.threads or (0 if gpus else max(1, cores // max(1, settings.replicas))),
        n_batch=n_batch,
        n_ubatch=args.n_ubatch or (min(n_batch, 512) if completes else n_batch),
        workload=settings.workload,
        pooling=args.pooling or "",
        cache_ram_mib=cache_ram_mib,
        flash_attention=args.flash_attention,
    )


def server_env(settings: SpawnSettings, server: ServerSettings, variable: str, gpus: list[int]) -> dict[str, str]:
    """Make the process's own part of its environment; devices outside the mask do not exist for it.

    Req: ORCH-3012
    """
    return {
        **settings.env,
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in gpus),
        variable: msgspec.json.encode(server).decode(),
    }


def fingerprint_of(
    settings: SpawnSettings, server: ServerSettings, gpus: list[int], versions: Mapping[str, str], argv: list[str]
) -> str:
    """Say what is launched, part by part, so that a later daemon can tell whether it would launch the same.

    Every flag counts as it was filled in. The key does not, for it is new with each launch, nor the model's path, for `versions` holds
    its digest.

    Shape: `part=value` by blanks. Of flags and environment only digests, for they may hold secrets.
    Req: ORCH-4380
    """
    inherited = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    flags = msgspec.structs.replace(server, api_key="", model_path="")
    parts = {
        **versions,
        "flags": _digest([flags, settings.strict]),
        "devices": ",".join(str(index) for index in gpus) or "cpu",
        "environment": _digest({**inherited, **settings.env}),
        "program": _digest(argv),
    }
    return " ".join(f"{part}={value}" for part, value in parts.items())


def difference(wanted: str, found: str) -> str:
    """Name the parts in which two fingerprints differ; empty when they are equal.

    >>> difference("engine=1 model=a", "engine=2 model=a")
    'engine'
    """
    wanted_parts, found_parts = set(wanted.split()), set(found.split())
    return ", ".join(sorted({part.partition("=")[0] for part in wanted_parts ^ found_parts}))


def _digest(said: object) -> str:
    return sha256(msgspec.json.encode(said, order="sorted")).hexdigest()
