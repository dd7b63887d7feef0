"""One HTTP exchange with the server: settings checked, failures explained, errors typed."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Final, TypeVar

import httpx
import msgspec

from orchqueue.client.errors import (
    AnswerLost,
    ApiError,
    BadSetting,
    ConnectFailed,
    ProtocolBroken,
    TaskFailed,
    error_class,
)
from orchqueue.schema.data import AuthBody, ErrorEnvelope

T = TypeVar("T")

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
_NO_ANSWER_HINT: Final = "If the server uses TLS, the address must begin with https://."


class Timeouts(msgspec.Struct, frozen=True):
    """Limits of one exchange; a stream's silence has its own limit.

    Units: milliseconds.
    """

    connect_ms: int = 5_000
    answer_ms: int = 30_000


class Answer(msgspec.Struct, frozen=True):
    """A successful answer, read whole."""

    status: int
    headers: httpx.Headers
    body: bytes
    origin: str

    def as_type(self, kind: type[T]) -> T:
        """Decode the body.

        Errors: ProtocolBroken when it is not what the contract promises.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolBroken(
                f"{self.origin} answered {self.status} with a body that is not the contract's: {error}. "
                "Is it an orchestratord, and not older than this client?"
            ) from error


class Transport:
    """Holds the connections and the credentials of one server.

    `was_reached`: it has answered once, so the address is right and a failure means that it went away.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        ca_file: str | None = None,
        verify_tls: bool = True,
    ) -> None:
        self.base_url = _checked_url(base_url)
        self._timeouts = timeouts or Timeouts()
        host = httpx.URL(self.base_url).host
        self._http = httpx.AsyncClient(
            headers=_base_headers(api_key),
            timeout=_httpx_timeout(self._timeouts, self._timeouts.answer_ms),
            verify=_tls(self.base_url, ca_file, verify_tls),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # A proxy named in the environment is for the outside; it cannot reach this machine's loopback.
            trust_env=host not in _LOOPBACK,
        )
        self.was_reached = False

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str | int] | None = None,
        also_ok: frozenset[int] = frozenset(),
    ) -> Answer:
        """Send a request and read the whole answer.

        Shape: `path` begins with a slash; its segments are already quoted.
        Errors: ApiError for a status outside 2xx and `also_ok`; ConnectFailed when no answer came.
        """
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            response = await self._http.request(
                method, self.base_url + path, content=body, params=params, headers=headers
            )
        except httpx.HTTPError as error:
            raise explain(error, self.base_url) from error
        if response.is_success or response.status_code in also_ok:
            self.was_reached = True
            return Answer(response.status_code, response.headers, response.content, f"{method} {self.base_url}{path}")
        raise self._error(response, response.content)

    async def open_stream(
        self, method: str, path: str, *, body: bytes | None = None, last_event_id: str = "", idle_ms: int
    ) -> httpx.Response:
        """Open an event stream; whoever asked closes it. The body must be read with `read_chunks`.

        Shape: `last_event_id` empty reads from the start.
        Errors: as `call`; 204 is an answer.
        """
        headers = {"accept": "text/event-stream", "accept-encoding": "identity", "cache-control": "no-store"}
        if last_event_id:
            headers["last-event-id"] = last_event_id
        if body is not None:
            headers["content-type"] = "application/json"
        timeout = _httpx_timeout(self._timeouts, idle_ms)
        request = self._http.build_request(method, self.base_url + path, headers=headers, content=body, timeout=timeout)
        try:
            response = await self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise explain(error, self.base_url) from error
        try:
            if response.status_code not in (200, 204):
                raise self._error(response, await self._read_all(response))
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code == 200 and kind != "text/event-stream":
                raise ProtocolBroken(f"{method} {self.base_url}{path} answered {kind or 'no type'}, not a stream")
        except BaseException:
            await response.aclose()
            raise
        self.was_reached = True
        return response

    async def read_chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Yield what arrives, as it arrives.

        Errors: AnswerLost when the connection breaks or stays silent for too long.
        """
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise explain(error, self.base_url) from error

    async def _read_all(self, response: httpx.Response) -> bytes:
        try:
            return await response.aread()
        except httpx.HTTPError as error:
            raise explain(error, self.base_url) from error

    def _error(self, response: httpx.Response, body: bytes) -> ApiError | TaskFailed | ProtocolBroken:
        status = response.status_code
        if status < 400:
            where = f" to {response.headers['location']}" if "location" in response.headers else ""
            return ProtocolBroken(f"{self.base_url} answered {status}{where}; use the final address of the server")
        kind = error_class(status)
        correlation_id = response.headers.get("x-correlation-id")
        if status in (401, 403):
            return kind(status, _refusal_message(status, body), correlation_id=correlation_id)
        try:
            envelope = msgspec.json.decode(body, type=ErrorEnvelope)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return kind(
                status,
                f"{self.base_url} answered {status} without a body of ours; a proxy in between may have spoken",
                correlation_id=correlation_id,
                retry_after_ms=_retry_after_ms(response.headers),
            )
        self.was_reached = True
        if "x-task-id" in response.headers:
            # Not this request was refused: the task that it names was accepted once and has failed.
            return TaskFailed(envelope, "")
        hint_ms = _retry_after_ms(response.headers)
        return kind(
            status,
            envelope.message,
            envelope=envelope,
            correlation_id=correlation_id or envelope.correlation_id,
            retry_after_ms=hint_ms if hint_ms is not None else envelope.retry_after_ms or None,
        )


def explain(error: httpx.HTTPError, base_url: str) -> ConnectFailed:
    """Turn a failure below HTTP into a sentence that says what to do."""
    detail = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectFailed(f"{base_url} did not take the connection in time; check the host, port and firewall")
    if isinstance(error, (httpx.ReadTimeout, httpx.WriteTimeout)):
        return AnswerLost(f"{base_url} went silent; it may be overloaded or the network is broken")
    if isinstance(error, httpx.ProxyError):
        return ConnectFailed(f"the proxy named in the environment refused: {detail}; set NO_PROXY for this host")
    if isinstance(error, httpx.ConnectError):
        return ConnectFailed(_explain_connect(detail, base_url))
    if isinstance(error, httpx.UnsupportedProtocol):
        return BadSetting(f"{base_url}: {detail}")
    if isinstance(error, httpx.LocalProtocolError):
        return BadSetting(f"the request cannot be sent as given: {detail}")
    return AnswerLost(f"the connection to {base_url} broke: {detail}. {_NO_ANSWER_HINT}")


def _explain_connect(detail: str, base_url: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in detail:
        return f"the certificate of {base_url} is not trusted ({detail}); name its authority with ca_file / --ca-file"
    if "WRONG_VERSION_NUMBER" in detail or "RECORD_LAYER_FAILURE" in detail:
        return f"{base_url} does not speak TLS; try http:// instead of https://"
    if "Name or service not known" in detail or "nodename nor servname" in detail or "name resolution" in detail:
        return f"the host of {base_url} is unknown; check its spelling"
    if "refused" in detail.lower() or "All connection attempts failed" in detail:
        return f"nobody listens at {base_url}; start one with 'orchestratord serve', or give the right address"
    return f"cannot connect to {base_url}: {detail}"


def _checked_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise BadSetting(f"{base_url!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
        raise BadSetting(f"{base_url!r} is not an address; write it as http://HOST:PORT or https://HOST:PORT")
    if url.query or url.fragment or url.userinfo:
        raise BadSetting(f"the address of {url.host} holds a query, a fragment or a user:password; leave them out")
    return str(url).rstrip("/")


def _base_headers(api_key: str | None) -> dict[str, str]:
    headers = {"accept": "application/json"}
    if api_key is not None:
        if not api_key or not all("!" <= character <= "~" for character in api_key):
            raise BadSetting("the API key is empty or holds characters that no key has; was a line end copied?")
        headers["authorization"] = f"Bearer {api_key}"
    return headers


def _tls(base_url: str, ca_file: str | None, verify_tls: bool) -> ssl.SSLContext | bool:
    if not base_url.startswith("https:"):
        return False
    if ca_file is None:
        return verify_tls
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"{ca_file} cannot be used as certificate authority: {error}") from error


def _httpx_timeout(timeouts: Timeouts, read_ms: int) -> httpx.Timeout:
    return httpx.Timeout(timeouts.answer_ms / 1000, connect=timeouts.connect_ms / 1000, read=read_ms / 1000, pool=None)


def _retry_after_ms(headers: httpx.Headers) -> int | None:
    # X-Backoff-Ms is the exact number; Retry-After is the same rounded up to whole seconds.
    for name, unit_ms in (("x-backoff-ms", 1), ("retry-after", 1000)):
        value = headers.get(name, "")
        if value.isascii() and value.isdigit():
            return int(value[:9]) * unit_ms
    return None


def _refusal_message(status: int, body: bytes) -> str:
    try:
        message = msgspec.json.decode(body, type=AuthBody).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = "no credential, or an unknown one" if status == 401 else "not allowed"
    hint = "give a key with --api-key-file or ORCHQ_API_KEY" if status == 401 else "the key lacks the needed scope"
    return f"{message} ({hint})"
