"""The runner's child process: `python -m donabe.runner.child --fd N`.

The main thread reads the socket and only dispatches; loading and all work happen in other threads. When the socket
closes the parent is gone, and the process ends at once, even in the middle of a native step. Lowers no limits and
touches no files beside the model's.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import threading
from concurrent.futures import Future
from typing import Any

from donabe.child_process import socket_from_parent
from donabe.errors import DonabeError, NativeError, RunnerError
from donabe.runner import messages
from donabe.runner.channel import Channel
from donabe.runner.core import RunnerCore
from donabe.runner.failures import failed_from
from donabe.runner.load import drain_native_logs, load_model
from donabe.runner.log_format import ChildLines
from donabe.runner.memory_plan import Planner
from donabe.runner.messages import ParentMessage
from donabe.runner.plans import MemoryPlan
from donabe.runner.smaller import Smaller
from donabe.runner.threads import EventItem
from donabe.types import ClassifyRequest, EmbedRequest, RerankRequest

_SWITCH_INTERVAL_S = 0.0005  # how long a busy Python thread may delay the engine's return from a native step
_LOG_INTERVAL_S = 0.5
_GC_THRESHOLDS = (50_000, 20, 50)  # after gc.freeze(): collections are rare and small
_FAILED_STOP_S = 2.0
_EXIT_ORPHANED = 3
_INFO_LEVEL = 2  # of native log lines


class Child:
    """Dispatches the parent's messages to the core."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._core: RunnerCore | None = None
        self._ended = threading.Event()
        self._calls: dict[int, Future[Any]] = {}
        self._planner: Planner | None = None  # between a plan and the load

    def run(self) -> int:
        """Until Shutdown, a fatal error, or the end of the parent. Returns the exit code."""
        while True:
            message = self._channel.receive()
            if message is None:
                # Threads may be inside native code for seconds: don't wait for them, nobody reads their output.
                os._exit(_EXIT_ORPHANED)
            if isinstance(message, messages.Plan):
                threading.Thread(target=self._plan, args=(message,), name="donabe-plan", daemon=True).start()
            elif isinstance(message, messages.Load):
                self._planner = None
                threading.Thread(target=self._load, args=(message,), name="donabe-load", daemon=True).start()
            elif isinstance(message, messages.Ping):
                step_age_s = self._core.step_age_s if self._core is not None else 0.0
                self._channel.send(messages.Pong(id=message.id, step_age_s=step_age_s))
            elif isinstance(message, messages.Shutdown):
                return self._shut_down()
            elif self._core is not None:
                self._dispatch(self._core, message)

    # --- loading -----------------------------------------------------------------------------------------------------

    def _plan(self, message: messages.Plan) -> None:
        """What the native side can't plan is left to the load, which fails in its own words or does not."""
        self._send_logs()
        failure: tuple[tuple[int, str], ...] = ()
        try:
            smaller, plan = self._planned_way(message)
        except (NativeError, MemoryError) as error:
            smaller, plan = message.smaller, None
            failure = ((_INFO_LEVEL, f"{message.spec.name} can't be planned: {error}"),)
        except BaseException as error:  # the load's too
            self._exit_with(error)
            return
        # As information, whatever they are: a plan that failed tells nothing of how a later load ended.
        lines = [(min(level, _INFO_LEVEL), text) for level, text in drain_native_logs()]
        if lines or failure:
            self._channel.send(messages.LogLines(lines=(*lines, *failure)))
        self._channel.send(messages.Planned(smaller=smaller, plan=plan))

    def _planned_way(self, message: messages.Plan) -> tuple[Smaller, MemoryPlan | None]:
        if self._planner is None:
            self._planner = Planner(message.spec, message.options)
        if message.is_quick and self._planner.has_plenty:
            return message.smaller, None
        plan = self._planner.plan(message.smaller)
        return self._planner.fit(plan) if message.may_shrink else (message.smaller, plan)

    def _load(self, message: messages.Load) -> None:
        try:
            if message.version != messages.PROTOCOL_VERSION:
                raise RunnerError(f"the server speaks protocol {message.version}, not {messages.PROTOCOL_VERSION}")
            loaded = load_model(message.spec, message.options, self._report_progress)
            self._core = RunnerCore(loaded, self._publish, self._engine_failed)
        except BaseException as error:  # whatever it is, the parent must hear of it
            self._send_logs()
            if not isinstance(error, DonabeError):
                logging.getLogger("donabe.runner").exception("loading failed")
            self._exit_with(error)
            return
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        threading.Thread(target=self._pump_logs, name="donabe-logs", daemon=True).start()
        self._send_logs()
        self._channel.send(messages.Ready(version=messages.PROTOCOL_VERSION, info=self._core.info))

    def _report_progress(self, fraction: float, stage: str) -> None:
        self._channel.send(messages.LoadProgress(fraction=fraction, stage=stage))
        self._send_logs()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _dispatch(self, core: RunnerCore, message: ParentMessage) -> None:
        if isinstance(message, messages.Start):
            request = message.request
            if isinstance(request, EmbedRequest):
                self._answer(message.id, core.embed(request))
            elif isinstance(request, RerankRequest):
                self._answer(message.id, core.rerank(request))
            elif isinstance(request, ClassifyRequest):
                self._answer(message.id, core.classify(request))
            else:
                core.start(message.id, request)
        elif isinstance(message, messages.Cancel):
            core.cancel(message.id)
            call = self._calls.get(message.id)
            if call is not None:
                call.cancel()
        elif isinstance(message, messages.Render):
            self._answer(message.id, core.render(message.request))
        elif isinstance(message, messages.Tokenize):
            flags = {"add_special": message.add_special, "parse_special": message.parse_special}
            self._answer(message.id, core.tokenize(message.text, **flags))
        elif isinstance(message, messages.Detokenize):
            self._answer(message.id, core.detokenize(list(message.tokens)))
        elif isinstance(message, messages.Pieces):
            self._answer(message.id, core.pieces(list(message.tokens)))
        elif isinstance(message, messages.Status):
            self._channel.send(messages.Reply.of(message.id, core.status()))

    def _answer(self, id: int, call: Future[Any]) -> None:
        self._calls[id] = call

        def send(done: Future[Any]) -> None:
            self._send_reply(id, done)

        call.add_done_callback(send)

    def _send_reply(self, id: int, call: Future[Any]) -> None:
        self._calls.pop(id, None)
        if call.cancelled():
            return
        try:
            self._channel.send(messages.Reply.of(id, call.result()))
        except Exception as error:  # the call's own, or a result too large for a frame
            self._channel.send(messages.ErrorReply(id=id, error=failed_from(error)))

    def _publish(self, items: list[EventItem]) -> None:
        self._channel.send(messages.Events(items=tuple(items)))

    # --- logs and the end --------------------------------------------------------------------------------------------

    def _pump_logs(self) -> None:
        while not self._ended.wait(_LOG_INTERVAL_S):
            self._send_logs()

    def _send_logs(self) -> None:
        lines = drain_native_logs()
        if lines:
            self._channel.send(messages.LogLines(lines=tuple(lines)))

    def _engine_failed(self, error: BaseException) -> None:
        """Called on the engine thread, which ends after this. Requests have got their errors already."""
        threading.Thread(target=self._exit_with, args=(error,), name="donabe-exit", daemon=True).start()

    def _exit_with(self, error: BaseException) -> None:
        if self._core is not None:
            # Publishes the last events. A broken context may hang in its own clean-up: bounded.
            stopper = threading.Thread(target=self._core.stop, daemon=True)
            stopper.start()
            stopper.join(_FAILED_STOP_S)
        self._send_logs()
        self._channel.send(messages.Exiting(error=failed_from(error)))
        sys.stderr.flush()
        os._exit(1)

    def _shut_down(self) -> int:
        self._ended.set()
        threading.Thread(target=self._outlive_parent_never, daemon=True).start()
        if self._core is not None:
            self._core.stop()
        self._send_logs()
        self._channel.send(messages.Exiting())
        return 0

    def _outlive_parent_never(self) -> None:
        """Reads on while the main thread is busy stopping."""
        while self._channel.receive() is not None:
            pass
        os._exit(_EXIT_ORPHANED)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="donabe.runner.child", description="internal: a model's own process")
    parser.add_argument("--fd", required=True, help="connected socket to the parent")
    options = parser.parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ChildLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    code = Child(Channel(socket_from_parent(options.fd))).run()
    sys.stderr.flush()
    os._exit(code)  # daemon threads and native destructors have no say in the exit code


if __name__ == "__main__":
    main()
