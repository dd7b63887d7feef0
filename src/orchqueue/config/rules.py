"""What must hold between fields, and between the file and the machine it is read on.

Req: ORCH-3012, ORCH-3030
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path as FilePath
from urllib.parse import urlsplit

from orchqueue.config.document import Document
from orchqueue.config.problems import Path, Problem, closest, show
from orchqueue.config.types import Config, Pool

_SHA256 = re.compile(r"[0-9a-f]{64}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_KEY = re.compile(r"[!-~]+")
_BUNDLED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
# Behind a Triton server's port its model and the port of its metrics may stand: nothing that it answers tells them.
_TRITON_TAIL = re.compile(r"(/v2/models/[A-Za-z0-9_.-]+)?/?(\?metrics_port=[0-9]{1,5})?")

# What each engine that the daemon launches takes in `launch.args`, and of which kind.
ENGINE_ARGS: dict[str, dict[str, type]] = {
    "llamacpp": {
        "threads": int,
        "n_batch": int,
        "n_ubatch": int,
        "cache_ram_mib": int,
        "flash_attention": bool,
        "pooling": str,
        "start_timeout_s": float,
    }
}
_KINDS: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}

_KEYS_FILE: Path = ("auth", "keys_file")

LookAtModel = Callable[[Pool, str | None], tuple[str, str] | None]
"""Looks for a pool's model, perhaps in the `model_dir`: what is wrong with it and what to do, or None."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Rules:
    """One check of one configuration.

    Fields in `faulty` hold their defaults instead of what the file says, so a rule that reads one is not judged: it
    would complain of something that nobody wrote.

    Req: ORCH-1101, ORCH-3052, ORCH-4195, ORCH-4202
    """

    def __init__(
        self, config: Config, document: Document, faulty: AbstractSet[Path], look_at_model: LookAtModel | None = None
    ) -> None:
        self._config = config
        self._document = document
        self._faulty = faulty
        self._look_at_model = look_at_model
        self._problems: list[Problem] = []

    def check(self) -> list[Problem]:
        """List every broken rule."""
        config = self._config
        if not config.pools:
            self._say(("pools",), "there are no pools", "name at least one; without a file the embedded one runs")
        self._check_unique([pool.id for pool in config.pools], "pools")
        for index, pool in enumerate(config.pools):
            path = ("pools", index)
            self._check_model(pool, path)
            self._check_launch(pool, path)
            self._check_urls(pool, (*path, "launch", "urls"))
            self._check_args(pool, (*path, "launch", "args"))
            self._check_devices(pool, path)
            self._check_workloads(pool, (*path, "workloads"))
            self._check_policies(pool, path)
        self._check_tenants()
        self._check_server()
        self._check_decision_file()
        return self._problems

    def _say(self, path: Path, message: str, fix: str, *reads: Path) -> None:
        for read in (path, *reads):
            if any(read[: len(bad)] == bad or bad[: len(read)] == read for bad in self._faulty):
                return
        self._problems.append(self._document.problem(path, message, fix))

    def _check_unique(self, names: list[str], section: str) -> None:
        for index, name in enumerate(names):
            first = names.index(name)
            if first != index:
                where, other = (section, index, "id"), (section, first, "id")
                self._say(where, f"'{name}' is also {section}[{first}]", "give each its own name", other)

    def _check_model(self, pool: Pool, path: Path) -> None:
        where, mode = (*path, "model"), (*path, "launch", "mode")
        scheme, _, rest = pool.model.partition(":")
        external = pool.launch.mode == "external"
        if scheme == "file" and rest:
            self._check_model_file(pool, where)
        elif scheme == "sha256" and _SHA256.fullmatch(rest):
            if self._config.model_dir is None and not external:
                message = "sha256: models are looked up in model_dir, and there is none"
                self._say(where, message, "add 'model_dir: …'", mode, ("model_dir",))
            else:
                self._check_model_file(pool, where)
            if pool.model_sha256 not in (None, rest):
                self._say((*path, "model_sha256"), "differs from the digest in `model`", "keep one of them", where)
        elif scheme == "repo" and _REPO.fullmatch(rest):
            if not external:
                fix = "use file:PATH, or an external engine"
                self._say(where, f"{pool.engine} does not fetch repo: models", fix, mode)
        elif scheme == "bundled" and _BUNDLED.fullmatch(rest):
            self._check_model_file(pool, where)
        else:
            fix = "write file:PATH, sha256:64 lower-case hex digits, bundled:NAME or repo:ORG/NAME"
            self._say(where, f"is no model reference, got '{pool.model[:40]}'", fix)

    def _check_model_file(self, pool: Pool, where: Path) -> None:
        """Look at the file only where somebody asked for that: a start must not fail for one pool's file."""
        if self._look_at_model is None or pool.launch.mode == "external" or pool.engine not in ENGINE_ARGS:
            return
        found = self._look_at_model(pool, self._config.model_dir)
        if found is not None:
            self._say(where, *found, (*where[:-1], "launch", "mode"))

    def _check_launch(self, pool: Pool, path: Path) -> None:
        launch, where = pool.launch, (*path, "launch")
        mode = (*where, "mode")
        if launch.mode == "spawn":
            if pool.engine not in ENGINE_ARGS:
                fix = "start it yourself, add 'mode: external' and its 'urls'"
                self._say(mode, f"{pool.engine} is not launched by the daemon", fix, (*path, "engine"))
            if launch.urls:
                self._say((*where, "urls"), "only external pools have urls", "add 'mode: external'", mode)
            if launch.api_key_env is not None:
                fix = "remove it: a spawned engine gets a key of its own"
                self._say((*where, "api_key_env"), "only external pools have keys", fix, mode)
            if launch.allow_simulated:
                self._say((*where, "allow_simulated"), "only external pools can be simulated", "remove it", mode)
            return
        self._check_api_key(launch.api_key_env, (*where, "api_key_env"))
        if not launch.urls:
            fix = "add 'urls: [http://HOST:PORT]'"
            self._say((*where, "urls"), "an external pool needs the URL of each replica", fix)
        elif pool.replicas not in (None, len(launch.urls)):
            message = f"is {pool.replicas}, but there are {len(launch.urls)} urls"
            self._say((*path, "replicas"), message, "remove `replicas`, it is the number of urls", (*where, "urls"))
        for name, told in (("args", bool(launch.args)), ("env", bool(launch.env))):
            if told:
                self._say((*where, name), "has no effect on an engine that is not launched here", "remove it")
        if pool.model_sha256 is not None and not pool.model.startswith("file:"):
            fix = "remove it; the engine's own digest is compared between replicas"
            self._say((*path, "model_sha256"), "an external engine's file cannot be checked from here", fix)

    def _check_api_key(self, variable: str | None, where: Path) -> None:
        """Check that the key is there, without showing what stands in the file: it might be the key itself."""
        if variable is None:
            return
        key = os.environ.get(variable, "") if _VARIABLE.fullmatch(variable) else None
        if key is None:
            fix = "write the variable's name, such as ENGINE_API_KEY, never the key itself"
            self._say(where, "is no name of an environment variable", fix)
        elif not key:
            fix = "set it where the daemon is started"
            self._say(where, "names an environment variable that is not set", fix)
        elif not _KEY.fullmatch(key):
            fix = "a key is one word of printable ASCII characters"
            self._say(where, "names an environment variable that holds no key", fix)

    def _check_urls(self, pool: Pool, where: Path) -> None:
        seen: set[str] = set()
        for index, url in enumerate(pool.launch.urls):
            fault = url_fault(url, pool.engine)
            if fault:
                self._say((*where, index), fault, "write http://HOST:PORT or https://HOST:PORT")
            elif url.rstrip("/").lower() in seen:
                self._say((*where, index), "the same URL is there twice", "one URL for each replica")
            seen.add(url.rstrip("/").lower())

    def _check_args(self, pool: Pool, where: Path) -> None:
        if pool.engine not in ENGINE_ARGS:
            return
        known = ENGINE_ARGS[pool.engine]
        for name, value in pool.launch.args.items():
            kind = known.get(name)
            fits = type(value) is kind or (kind is float and type(value) is int)
            if kind is None:
                fix = closest(name, known) or f"known are {', '.join(known)}"
                self._say((*where, name), f"{pool.engine} has no such flag", fix)
            elif not fits:
                self._say((*where, name), f"must be {_KINDS[kind]}, got {show(value)}", "write it without quotes")
            elif isinstance(value, int | float) and value < 0:
                self._say((*where, name), f"is out of range, got {show(value)}", "at least 0")

    def _check_workloads(self, pool: Pool, where: Path) -> None:
        if not pool.workloads:
            self._say(where, "names no workload", "remove it, or name completion, embedding or rerank")
        elif len(set(pool.workloads)) != len(pool.workloads):
            self._say(where, "names a workload twice", "name each once")
        elif len(pool.workloads) > 1 and pool.launch.mode == "spawn":
            self._say(where, "an engine is launched for one workload", "make a pool for each")
        elif pool.engine in {"tgi", "triton"} and pool.workloads != ("completion",):
            self._say(where, f"{pool.engine} serves completions only", "remove it, or use another engine")

    def _check_devices(self, pool: Pool, path: Path) -> None:
        where, allow, split_at = (*path, "devices"), (*path, "allow_cpu"), (*path, "tensor_split")
        devices, split = pool.devices, pool.tensor_split
        if len(set(devices)) != len(devices):
            self._say(where, "names a device twice", "name each device once")
        if "cpu" in devices and len(devices) > 1:
            self._say(where, "mixes the CPU with other devices", "a mask is either [cpu] or [cuda:0, …]")
        if "cpu" in devices and not pool.allow_cpu:
            fix = "add 'allow_cpu: true' if you mean it"
            self._say(where, "names the CPU, and allow_cpu is not true", fix, allow)
        if pool.allow_cpu and devices and "cpu" not in devices:
            self._say(allow, "is true, but `devices` names no cpu", "remove one of the two", where)
        if not devices and not pool.allow_cpu and pool.launch.mode == "spawn":
            fix = "add 'devices: [cuda:0]', or 'allow_cpu: true' to run on the CPU"
            self._say(where, "no device is named", fix, allow, (*path, "launch", "mode"))
        if split and len(split) != len(devices):
            message = f"has {len(split)} ratios for {len(devices)} devices"
            self._say(split_at, message, "one ratio for each device", where)
        if split and not math.isclose(math.fsum(split), 1.0, abs_tol=1e-6):
            self._say(split_at, f"sums to {math.fsum(split):g}", "the ratios must sum to 1")

    def _check_policies(self, pool: Pool, path: Path) -> None:
        classes = (*path, "admission", "priorities")
        names = [entry.name for entry in pool.admission.priorities]
        for index, entry in enumerate(pool.admission.priorities):
            if entry.name in names[:index]:
                self._say((*classes, index, "name"), f"'{entry.name}' is there twice", "keep one entry a class")
            if entry.queue_capacity is not None and entry.queue_capacity > pool.queue.capacity:
                message = f"{entry.queue_capacity} is more than the pool's queue holds, {pool.queue.capacity}"
                where = (*classes, index, "queue_capacity")
                self._say(where, message, "raise queue.capacity or lower this", (*path, "queue", "capacity"))
        if pool.determinism == "strict" and pool.slots > 1:
            fix = "use slots: 1 and more replicas, or determinism: best_effort"
            message = f"strict cannot be kept with {pool.slots} slots"
            self._say((*path, "determinism"), message, fix, (*path, "slots"))
        backoff, where = pool.supervision.backoff, (*path, "supervision", "backoff")
        if backoff.initial_ms > backoff.max_ms:
            message = f"{backoff.initial_ms} is more than max_ms {backoff.max_ms}"
            self._say((*where, "initial_ms"), message, "make it at most max_ms", (*where, "max_ms"))

    def _check_tenants(self) -> None:
        self._check_unique([tenant.id for tenant in self._config.tenants], "tenants")
        for index, tenant in enumerate(self._config.tenants):
            for name, quotas in (("quotas", tenant.quotas), ("quotas_per_key", tenant.quotas_per_key)):
                where = ("tenants", index, name)
                if quotas.burst is not None and quotas.requests_per_s is None:
                    fix = "add requests_per_s, or remove it"
                    self._say(
                        (*where, "burst"), "has no effect without requests_per_s", fix, (*where, "requests_per_s")
                    )

    def _check_decision_file(self) -> None:
        """Keep decisions out of files that hold something else."""
        config, where = self._config, ("explain", "file")
        others: tuple[tuple[str | None, Path], ...] = (
            (config.journal.path, ("journal", "path")),
            (config.auth.keys_file, _KEYS_FILE),
        )
        for path, other in others:
            if config.explain.file is not None and path in (config.explain.file, f"{config.explain.file}.1"):
                self._say(where, f"is the file of {'.'.join(map(str, other))} too", "name a file of its own", other)

    def _check_server(self) -> None:
        server, auth = self._config.server, self._config.auth
        if server.tls is not None:
            self._check_readable(server.tls.cert, ("server", "tls", "cert"), "certificate file")
            self._check_readable(server.tls.key, ("server", "tls", "key"), "private key file")
        model_dir = self._config.model_dir
        if model_dir is not None and not os.path.isdir(model_dir):
            self._say(("model_dir",), f"there is no directory {model_dir}", "create it or correct the path")
        if auth.keys_file is not None:
            self._check_readable(auth.keys_file, _KEYS_FILE, "keys file")
        if not is_loopback(server.host) and auth.keys_file is None:
            message = f"'{server.host}' can be reached from outside, and no keys are asked for"
            fix = "set auth.keys_file (see `orchestratord keys create`), or bind 127.0.0.1"
            self._say(("server", "host"), message, fix, _KEYS_FILE)
        if auth.keys_file is None and auth.allow_anonymous_loopback is False:
            where = ("auth", "allow_anonymous_loopback")
            message = "is false, and there are no keys: nobody could call"
            self._say(where, message, "set auth.keys_file too", _KEYS_FILE)

    def _check_readable(self, name: str, where: Path, what: str, *reads: Path) -> None:
        """Check by opening, as the daemon will: permission bits alone do not tell."""
        try:
            if not FilePath(name).is_file():
                self._say(where, f"there is no {what} {name}", "correct the path", *reads)
            else:
                FilePath(name).open("rb").close()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            fix = "give this user the right to read it"
            self._say(where, f"the {what} {name} cannot be read: {reason}", fix, *reads)


def url_fault(url: str, engine: str = "") -> str:
    """Say what is wrong with an engine's base URL; empty when nothing is.

    >>> url_fault("http://127.0.0.1:8081"), url_fault("ftp://x")
    ('', 'must begin with http:// or https://')
    >>> url_fault("http://gpu:8000/v2/models/ensemble?metrics_port=8002", "triton")
    ''
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if not parts.hostname or port == 0 or any(mark.isspace() for mark in url):
        return "is no URL"
    if parts.username is not None or parts.password is not None:
        return "holds a user or password, which would show in logs"
    if engine == "triton" and _TRITON_TAIL.fullmatch(url.partition(parts.netloc)[2]):
        return ""
    if parts.query or parts.fragment or parts.path not in ("", "/"):
        return "must end after the port" + (", its /v2/models/NAME or ?metrics_port=N" if engine == "triton" else "")
    return ""
