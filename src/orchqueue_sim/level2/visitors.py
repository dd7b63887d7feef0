"""Simulated clients over HTTP and SSE: they post, read, leave, resume, cancel, repeat themselves and are slow."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from orchqueue.client.sse import SseParser
from orchqueue_sim.level2.caller import WAITS, Answer, Call, Gone, ask, begin, encode, head_of
from orchqueue_sim.level2.inspector import Inspector, StreamCheck, Track
from orchqueue_sim.level2.oddities import make_odd, nonsense
from orchqueue_sim.level2.plan import VANISHING, Plan
from orchqueue_sim.level2.wires import Network
from orchqueue_sim.marks import Chronicle

TRIES_AT_MOST = 40
TRIES_IN_TROUBLE = 4
LOOKS_AT_MOST = 200
DEEDS = ("asks again with the same body", "asks again with another body", "cancels twice", WAITS)
SSE = {"Accept": "text/event-stream"}
REFUSALS = frozenset({400, 429, 500, 503})


class Surroundings(msgspec.Struct):
    """What every client of a run shares. `stopping`: the daemon is being stopped or down."""

    plan: Plan
    network: Network
    inspector: Inspector
    rng: Random
    chronicle: Chronicle
    stopping: bool = False
    healing: bool = False
    bursts: bool = False
    refused: int = 0


class Visitor:
    """One client who wants one task done."""

    def __init__(self, around: Surroundings, number: int) -> None:
        rng = around.rng
        self._around, self._number = around, number
        tenant = rng.choice(("t0", "t1"))
        task_id = str(UUID(int=rng.getrandbits(128), version=4))
        self.track: Track = around.inspector.track(number, task_id, tenant)
        self._odd = around.plan.has("odd_requests") and rng.random() < 0.2
        self.body: dict[str, Any] = self._draw_body(rng, task_id)
        peak_ms = around.plan.peak_ms + rng.randint(0, 50)
        self.at_ms = peak_ms if around.bursts and rng.random() < 0.7 else rng.randint(0, around.plan.span_ms)
        self._streams_at_once = rng.random() < 0.3
        self._gives_up = False
        self._stages = [fault.removeprefix("vanishing_") for fault in VANISHING if around.plan.has(fault)]

    def _draw_body(self, rng: Random, task_id: str) -> dict[str, Any]:
        prompt = f"[w{self._number}] " + "tell me of rivers and stones " * rng.choice((0, 1, 5))
        body: dict[str, Any] = {
            "task_id": task_id,
            "max_tokens": rng.choice((1, 4, 12, 30, 60)),
            "priority": rng.choice(("interactive", "interactive", "batch")),
        }
        if rng.random() < 0.3:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if rng.random() < 0.5:
            body["seed"] = rng.randint(1, 1_000)
        if self._around.plan.faults and rng.random() < 0.15:
            body["deadline_ms"] = rng.choice((50, 1_000, 20_000))
        if self._around.plan.sessions and rng.random() < 0.5:
            body["session_id"] = str(UUID(int=rng.randint(1, self._around.plan.sessions), version=4))
        if rng.random() < 0.15:
            body["sampling"] = {"grammar": 'root ::= "one of few things"'}
        if self._odd:
            body = make_odd(body, rng)
        if rng.random() < 0.3:
            body["on_disconnect"] = rng.choice(("cancel", "continue"))
        return body

    async def live(self) -> None:
        """Get the task done, or be refused."""
        around = self._around
        await asyncio.sleep(self.at_ms / 1000)
        others = [asyncio.ensure_future(whim) for whim in self._whims()]
        if await self._post():
            await self._read_to_the_end()
        for other in others:
            await other
        around.chronicle.tell("client", f"{self._number} is done")

    def _whims(self) -> list[Any]:
        rng, has = self._around.rng, self._around.plan.has
        whims: list[Any] = []

        def soon() -> float:
            return rng.choice((0.0, 0.005, 0.05, 0.8))

        if has("cancels") and rng.random() < 0.6:
            whims.append(self._cancel(soon(), soon() if rng.random() < 0.5 else None))
        if has("duplicates") and rng.random() < 0.4:
            whims.append(self._repeat(soon()))
        if self._stages and rng.random() < 0.3:
            whims.append(self._peek(soon()))
        if self.body.get("session_id") and rng.random() < 0.15:
            whims.append(self._end_session(soon()))
        if has("malformed") and rng.random() < 0.5:
            whims.append(self._mumble(soon()))
        return whims

    # asking

    async def _ask(self, method: str, path: str, body: object = None) -> Answer | None:
        try:
            answer = await ask(self._around.network, encode(method, path, self.track.tenant, body))
        except Gone as gone:
            if str(gone) == WAITS:
                self._around.chronicle.client(WAITS)
            return None
        self._check(method, path, answer)
        return answer

    def _check(self, method: str, path: str, answer: Answer) -> None:
        inspector = self._around.inspector
        what = f"{method} {path} of client {self._number}"
        self._around.chronicle.tell("client", f"{self._number} {method} {path[:40]} -> {answer.status}")
        if "x-correlation-id" not in answer.headers:
            inspector.fail(f"{what} was answered {answer.status} without a correlation id")
        if answer.status in (429, 503):
            envelope: dict[str, Any] = answer.json
            wait_ms = int(answer.headers.get("x-backoff-ms", "-1"))
            if wait_ms != envelope.get("retry_after_ms") or int(answer.headers["retry-after"]) < max(1, wait_ms / 1000):
                inspector.fail(f"{what}: Retry-After and X-Backoff-Ms do not fit {answer.headers}, {envelope}")
        if answer.status == 500 and answer.json.get("code") == "INTERNAL":
            inspector.fail(f"{what} met a bug of ours: {answer.json}")

    async def _post(self) -> bool:
        """Post until accepted or refused for good; the same task every time."""
        around = self._around
        self.track.asked_at_s, self.track.asked_in_life = around.inspector.clock(), around.inspector.life
        if self._odd:
            around.chronicle.struck("odd_requests", f"client {self._number}")
        tries = 0
        for _ in range(TRIES_AT_MOST):
            status, wait_ms = await (self._post_streaming() if self._streams_at_once else self._post_once())
            if status in (200, 202):
                return True
            if status in (400, 500):
                return self.track.accepted
            tries += around.healing
            if status and tries > TRIES_IN_TROUBLE:
                around.refused += 1
                return self.track.accepted
            await asyncio.sleep(min(5_000, max(50, wait_ms)) / 1000)
        return self.track.accepted

    async def _post_once(self) -> tuple[int, int]:
        around = self._around
        if "before_reply" in self._stages and not around.healing and around.rng.random() < 0.3:
            await self._post_and_leave()
        answer = await self._ask("POST", "/v1/tasks", self.body)
        if answer is None:
            return 0, 200
        return self._posted(answer)

    async def _post_and_leave(self) -> None:
        """Be gone before the answer comes; whether the task was accepted is known to nobody."""
        around = self._around
        try:
            call = await begin(around.network, encode("POST", "/v1/tasks", self.track.tenant, self.body))
        except Gone:
            return
        await asyncio.wait({call.head}, timeout=around.rng.choice((0.0, 0.002)))
        if not call.head.done():
            around.chronicle.struck("vanishing_before_reply", f"client {self._number}")
        call.close()

    def _posted(self, answer: Answer) -> tuple[int, int]:
        if answer.status == 202:
            self._around.inspector.accepted(self.track, streaming=False)
            if answer.json["task_id"] != self.track.task_id:
                self._around.inspector.fail(f"client {self._number} was given another task: {answer.json}")
        elif answer.status == 409 and self.track.two_bodies:
            self.body = self._other_body()
        elif answer.status not in REFUSALS:
            self._around.inspector.fail(f"a POST of client {self._number} was answered {answer.status} {answer.body!r}")
        elif answer.status == 400 and not self.body.get("session_id"):
            code = answer.json.get("message")
            self._around.inspector.marks["refused by engine"] += 1
            other_model = self._around.plan.has("operators") and "several models fit" in str(code)
            if not (self.track.right_text or self._around.plan.has("rejected") or self._odd or other_model):
                self._around.inspector.fail(f"client {self._number} was refused: {code}")
        return answer.status, int(answer.headers.get("x-backoff-ms", "0"))

    async def _post_streaming(self) -> tuple[int, int]:
        """Post and read the stream that answers."""
        request = encode("POST", "/v1/tasks", self.track.tenant, self.body, SSE)
        check = StreamCheck(self._around.inspector, self.track, None)
        try:
            call = await self._begin_reading(request, check)
        except Gone:
            return 0, 200
        if call.status == 200:
            await self._read(call, check)
            return 200, 0
        await call.over
        if not call.whole:
            return 0, 200
        answer = Answer(call.status, call.headers, bytes(call.body))
        self._check("POST", "/v1/tasks with stream", answer)
        return self._posted(answer)

    # reading

    async def _begin_reading(self, request: bytes, check: StreamCheck) -> Call:
        parser = SseParser()
        inspector = self._around.inspector

        def on_body(data: bytes) -> None:
            for event in parser.feed(data):
                check.see(event.event, event.data, event.last_event_id if event.has_own_id else None)

        call = await begin(self._around.network, request, on_body)
        await head_of(call)
        if call.status == 200 and request.startswith(b"POST"):
            inspector.accepted(self.track, streaming=True)
        return call

    async def _read_to_the_end(self) -> None:
        """Follow the stream, with breaks, until its terminal event."""
        position: str | None = None
        around = self._around
        read_in_life = around.inspector.life
        while not self._gives_up:
            headers = SSE if position is None else {**SSE, "Last-Event-ID": position}
            check = StreamCheck(around.inspector, self.track, position)
            request = encode("GET", f"/v1/tasks/{self.track.task_id}/stream", self.track.tenant, None, headers)
            try:
                call = await self._begin_reading(request, check)
            except Gone:
                await asyncio.sleep(0.1)
                continue
            if call.status == 204 and position is not None and position.endswith(":end"):
                return
            if call.status == 409 and position is not None and read_in_life != around.inspector.life:
                position = None  # Computed again, the task ended before it came as far as its reader had been.
                continue
            if call.status != 200:
                await call.over
                if not call.whole:
                    continue
                if call.status == 404 and around.plan.has("wall_jump") and around.inspector.forgotten(self.track):
                    return
                around.inspector.fail(f"the stream of task {self._number} at {position} was answered {call.status}")
                return
            if position is not None:
                around.chronicle.struck("resumes", f"client {self._number} at {position}")
            await self._read(call, check)
            read_in_life = read_in_life if check.last_id == position else check.life
            if check.ended:
                around.chronicle.tell("client", f"{self._number} read its end")
                return
            position = check.last_id if around.plan.has("resumes") and around.rng.random() < 0.8 else None
            await asyncio.sleep(around.rng.choice((0, 5, 300)) / 1000)

    async def _read(self, call: Call, check: StreamCheck) -> None:
        """Read one connection until it ends, or until it is left."""
        around = self._around
        rng, has = around.rng, around.plan.has
        slow = has("slow_reader") and not around.healing and rng.random() < 0.4
        stages = [stage for stage in self._stages if stage != "before_reply"]
        leaves = stages and not around.healing and rng.random() < 0.7
        if slow and call.wire is not None:
            around.chronicle.struck("slow_reader", f"client {self._number}")
            call.wire.pause_reading()
            await asyncio.sleep(rng.choice((0.01, 1.0, 40.0)))
            call.wire.resume_reading()
        if leaves:
            await self._wait_for(rng.choice(stages), call, check)
        else:
            await call.over
        left = not call.over.done()
        call.close()
        if left or slow or around.stopping or around.inspector.life != check.life:
            return
        if check.ended and not call.whole:
            around.inspector.fail(f"the stream of task {self._number} was cut after its terminal event")
        elif not check.ended:
            where = f"the stream of task {self._number} ended at {check.last_id}"
            around.inspector.fail(f"{where} without a terminal event")

    async def _wait_for(self, stage: str, call: Call, check: StreamCheck) -> None:
        """Read until the task has come so far, and be gone."""
        chronicle = self._around.chronicle
        looks = 0
        while not call.over.done() and check.stage != stage and (looks := looks + 1) < LOOKS_AT_MOST:
            await asyncio.wait({call.over}, timeout=0.02)
        if check.stage == stage and not check.ended:
            self._gives_up = self._around.rng.random() < 0.3
            ever = " for ever" if self._gives_up else ""
            chronicle.struck(f"vanishing_{stage}", f"client {self._number} leaves at {check.last_id}{ever}")
        else:
            chronicle.tell("client", f"{self._number} leaves at {check.last_id}")

    # whims

    async def _cancel(self, after_s: float, again_after_s: float | None) -> None:
        await asyncio.sleep(after_s)
        path, known = f"/v1/tasks/{self.track.task_id}", self.track.accepted
        answer = await self._ask("POST", f"{path}/cancel")
        if answer is None:
            return
        if answer.status == 204 and known:
            # A cancel on its way together with the POST may have met an earlier acceptance, withdrawn by now.
            self._around.inspector.canceled(self.track)
            self._around.chronicle.struck("cancels")
            look = await self._ask("GET", path)
            if look is not None and look.status == 200:
                self._around.inspector.seen_canceled(self.track, look.json)
        elif answer.status not in (204, 404) or (
            answer.status == 404 and known and not self._around.plan.has("wall_jump")
        ):
            self._around.inspector.fail(f"a cancel of task {self._number} was answered {answer.status}")
        if again_after_s is not None:
            await asyncio.sleep(again_after_s)
            known = self.track.accepted and not self._around.plan.has("wall_jump")
            again = await self._ask("POST", f"{path}/cancel")
            self._around.chronicle.client("cancels twice")
            if again is not None and again.status != 204 and known:
                self._around.inspector.fail(f"a second cancel of task {self._number} was answered {again.status}")

    async def _repeat(self, after_s: float) -> None:
        """Post the task again, or another one of its name."""
        await asyncio.sleep(after_s)
        self._around.chronicle.struck("duplicates")
        if self._around.rng.random() < 0.5:
            self._around.chronicle.client("asks again with the same body")
            if await self._post_once() == (202, 0) and self._streams_at_once:
                self._around.inspector.marks["accepted by a repeat"] += 1
            return
        known = self.track.accepted
        self.track.two_bodies = True
        self._around.chronicle.client("asks again with another body")
        answer = await self._ask("POST", "/v1/tasks", self._other_body())
        if answer is not None and answer.status == 202:
            if known:
                self._around.inspector.fail(f"task {self._number} was accepted with another body")
            self.body = self._other_body()
            self._around.inspector.accepted(self.track, streaming=False)

    def _other_body(self) -> dict[str, Any]:
        return {**self.body, "max_tokens": self.body["max_tokens"] ^ 1 or 2}

    async def _end_session(self, after_s: float) -> None:
        """Delete the session, whatever of it is in flight."""
        await asyncio.sleep(after_s)
        answer = await self._ask("DELETE", f"/v1/sessions/{self.body['session_id']}")
        if answer is not None and answer.status not in (204, 429, 503):
            self._around.inspector.fail(f"the end of a session of client {self._number} was answered {answer.status}")

    async def _peek(self, after_s: float) -> None:
        """Look at the task and leave before the answer, or look at someone else's."""
        await asyncio.sleep(after_s)
        rng = self._around.rng
        other = "t1" if self.track.tenant == "t0" else "t0"
        path = f"/v1/tasks/{self.track.task_id}"
        try:
            if rng.random() < 0.5:
                call = await begin(self._around.network, encode("GET", path, self.track.tenant))
                await asyncio.sleep(rng.choice((0, 1, 3)) / 1000)
                call.close()
            else:
                answer = await ask(self._around.network, encode("GET", path, other))
                if answer.status not in (404, 429, 503):
                    self._around.inspector.fail(f"task {self._number} was shown to another tenant: {answer.status}")
        except Gone:
            return

    async def _mumble(self, after_s: float) -> None:
        """Send what is no request, or half of one."""
        await asyncio.sleep(after_s)
        rng, tenant = self._around.rng, self.track.tenant
        self._around.chronicle.struck("malformed")
        request = rng.choice(nonsense(tenant, encode("POST", "/v1/tasks", tenant, self.body)))
        try:
            call = await begin(self._around.network, request)
        except Gone:
            return
        await asyncio.wait({call.over}, timeout=rng.choice((0.01, 30.0)))
        call.close()
        if call.whole and not 400 <= call.status < 500 and call.status != 503:
            self._around.inspector.fail(
                f"nonsense of client {self._number} was answered {call.status}: {request[:200]!r}"
            )
        if call.whole and "x-correlation-id" not in call.headers:
            self._around.inspector.fail(f"nonsense of client {self._number} was answered without a correlation id")
