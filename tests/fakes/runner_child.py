"""A runner child that speaks the real protocol but has no model. Run as a script: `runner_child.py BEHAVIOUR --fd N`.

Behaviours: `answer` counts words of the prompt; the others misbehave at one point each (see `Behaviour`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from donabe.errors import InvalidRequestError, LoadError
from donabe.runner import messages
from donabe.runner.channel import Channel
from donabe.runner.failures import failed_from
from donabe.types import Delta, Finished, FinishReason, ModelInfo, RunnerStatus, Usage

INFO = ModelInfo(
    architecture="fake",
    description="no model",
    n_params=1,
    n_ctx=64,
    n_ctx_train=64,
    n_ctx_per_request=64,
    n_embd=4,
    n_vocab=16,
    n_parallel=4,
    memory_kind="dense",
    size_bytes=1,
    size_vram_bytes=0,
)


class FakeChild:
    def __init__(self, behaviour: str, channel: Channel) -> None:
        self.behaviour = behaviour
        self.channel = channel
        self.n_cancelled = 0

    def run(self) -> None:
        if self.behaviour == "mute":
            time.sleep(60)
        while (message := self.channel.receive()) is not None:
            self.handle(message)

    def handle(self, message: messages.ParentMessage) -> None:
        send = self.channel.send
        if isinstance(message, messages.Plan):
            send(messages.Planned(smaller=message.smaller))
        elif isinstance(message, messages.Load):
            self.load()
        elif isinstance(message, messages.Ping):
            if self.behaviour != "no_pong":
                send(messages.Pong(id=message.id, step_age_s=9.0 if self.behaviour == "stuck_step" else 0.0))
        elif isinstance(message, messages.Start):
            self.start(message)
        elif isinstance(message, messages.Cancel):
            self.n_cancelled += 1
        elif isinstance(message, messages.Status):
            send(messages.Reply.of(message.id, RunnerStatus(n_steps=self.n_cancelled)))
        elif isinstance(message, messages.Tokenize):
            error = InvalidRequestError("text is odd", field="text", hint="send other text")
            send(messages.ErrorReply(id=message.id, error=failed_from(error)))
        elif isinstance(message, messages.Shutdown):
            if self.behaviour == "deaf":
                time.sleep(60)
            send(messages.Exiting())
            sys.exit(0)

    def load(self) -> None:
        send = self.channel.send
        if self.behaviour == "exit_at_load":
            print("out of cheese", file=sys.stderr, flush=True)
            os._exit(7)
        send(messages.LoadProgress(fraction=0.5))
        if self.behaviour == "lose_worker_at_load":
            print("ggml-rpc.cpp:1: Remote RPC server crashed or returned malformed response", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGABRT)
        if self.behaviour == "stall_at_load":
            time.sleep(60)
        if self.behaviour == "refuse_load":
            error = LoadError("not a model", hint="choose another file")
            send(messages.Exiting(error=failed_from(error)))
            sys.exit(1)
        version = 99 if self.behaviour == "other_version" else messages.PROTOCOL_VERSION
        send(messages.Ready(version=version, info=INFO))

    def start(self, message: messages.Start) -> None:
        send = self.channel.send
        words = str(getattr(message.request, "prompt", "a b")).split()
        for word in words:
            send(messages.Events(items=((message.id, Delta(text=word)),)))
            if self.behaviour == "die_in_answer":
                send(messages.LogLines(lines=((4, "GGML_ASSERT(false) failed"),)))
                os.kill(os.getpid(), signal.SIGKILL)
            if self.behaviour == "lose_worker":
                print("ggml-rpc.cpp:1: Remote RPC server crashed or returned malformed response", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGABRT)
            if self.behaviour == "garbage":
                self.channel._sock.sendall(b"\x03\x00\x00\x00\xc1\xc1\xc1")
            if self.behaviour in ("endless", "garbage"):
                return
        while self.behaviour == "until_gate" and not os.path.exists(os.environ["DONABE_TEST_GATE"]):
            time.sleep(0.01)
        done = Finished(reason=FinishReason.STOP, usage=Usage(n_output_tokens=len(words)))
        send(messages.Events(items=((message.id, done),)))


def main() -> None:
    fd = int(sys.argv[sys.argv.index("--fd") + 1])
    FakeChild(sys.argv[1], Channel(socket.socket(fileno=fd))).run()


if __name__ == "__main__":
    main()
