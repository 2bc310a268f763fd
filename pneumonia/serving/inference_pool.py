"""Decodes and classifies images in a few threads, one image at a time, so that no request keeps the others waiting for long."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Final, TypeVar

import cv2
import numpy as np

from pneumonia.data.images.dicom_files import is_dicom
from pneumonia.data.images.jpeg2000 import CODE_START
from pneumonia.data.images.limits import UnreadableImageError
from pneumonia.export.runtime import Bundle, Prediction
from pneumonia.serving.explanation import Explanation, explanation_steps
from pneumonia.serving.limits import Limits
from pneumonia.serving.problem import Problem
from pneumonia.serving.request_parsing import ParsedRequest, check_file, parse_request, unreadable
from pneumonia.serving.telemetry import WORKER

T = TypeVar("T")
WAIT_S_PER_MEGAPIXEL: Final = 1.0  # far more than a megapixel takes, so that small requests overtake large ones
SLOW_BYTES: Final = 2**20  # of JPEG 2000: a megabyte of it takes longer to decode than any other image
LOOK_S: Final = 0.05
STEP_PIXELS: Final = 1_000_000  # what one batch of an explanation counts for


class QueuePosition:
    """The place of one request in the queue: its arrival, plus a second for each megapixel that it has asked for so far.

    A small request overtakes a large one, and every request is at some time the earliest.
    """

    def __init__(self) -> None:
        self.due = time.monotonic()

    def after(self, pixels: int) -> float:
        """The time at which work on this many more pixels is due, in seconds of the monotonic clock."""
        self.due += pixels / 1e6 * WAIT_S_PER_MEGAPIXEL
        return self.due


class InferencePool:
    """Answers image files with a bundle in a few threads; ONNX Runtime and the decoders let other threads run.

    The unit of work is one image, or one batch of an explanation: between two of them other requests have their turn, and a
    request that was cancelled (its client is gone, or its time is over) ends. A unit that runs can't be interrupted, so a
    cancelled request ends once its unit has, and counts as being answered until then. Slow images never take the last of several
    threads, so that the other requests go on.

    Args:
        bundle: Answers.
        limits: Of images, pixels and threads.
    """

    def __init__(self, bundle: Bundle, limits: Limits) -> None:
        self.bundle = bundle
        self.limits = limits
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix=WORKER)
        self._free = limits.workers
        self._slow = asyncio.Semaphore(max(limits.workers - 1, 1))
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    async def predict(self, body: bytes, kind: str) -> tuple[ParsedRequest, list[Prediction]]:
        """Classify the images of a request.

        Args:
            body: The whole body.
            kind: Its media type.

        Raises:
            Problem: What is wrong, and with which image where there are several.
        """
        turn = QueuePosition()
        asked = await self.run(partial(parse_request, body, kind, self.limits), turn.due)
        answers = []
        for place, (raw, pixels) in enumerate(zip(asked.files, asked.pixels, strict=True)):
            where = f"images[{place}]: " if asked.several else ""
            answers.append(await self.run(partial(self._answer, raw, where), turn.after(pixels), _is_slow(raw)))
        return asked, answers

    async def explain(self, body: bytes, kind: str) -> Explanation:
        """The image of a request as it was decoded, and a map of where its likeliest class depends on it.

        Args:
            body: One image file.
            kind: Its media type; no JSON.

        Raises:
            Problem: What is wrong.
        """
        turn = QueuePosition()
        pixels = await self.run(partial(check_file, body, kind, self.limits), turn.due)
        steps = explanation_steps(self.bundle, body)

        def step() -> Explanation | None:
            return _refusing(steps.__next__)

        # The first step decodes twice: for the network and for people.
        explanation = await self.run(step, turn.after(2 * pixels), _is_slow(body))
        while explanation is None:
            explanation = await self.run(step, turn.after(STEP_PIXELS))
        return explanation

    async def run(self, work: Callable[[], T], due: float = 0.0, slow: bool = False) -> T:
        """Run a unit of work in one of the threads, as soon as one is free and no other unit is due earlier.

        Args:
            work: The unit.
            due: From :meth:`QueuePosition.after`.
            slow: Whether it may take many seconds.

        Raises:
            CancelledError: After the unit has ended, or at once where it had not begun.
        """
        async with self._slow if slow else nullcontext():
            await self._thread(due)
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
            future.add_done_callback(lambda _: self._release())
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                await asyncio.wait([future])
                raise

    def warm_up(self) -> None:
        """Answer a blank image, so that the first caller does not wait for what is loaded on first use."""
        self._answer(cv2.imencode(".jpeg", np.zeros((256, 256), dtype=np.uint8))[1].tobytes())

    def close(self) -> None:
        """Take no more units of work, and let the threads end with those that run."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def is_idle(self, within_s: float) -> bool:
        """Whether no unit of work runs any more, or ends within some seconds."""
        end = time.monotonic() + within_s
        while self._free < self.limits.workers and time.monotonic() < end:
            await asyncio.sleep(LOOK_S)
        return self._free == self.limits.workers

    def _answer(self, raw: bytes, where: str = "") -> Prediction:
        return self.bundle.predict_square(_refusing(partial(self.bundle.square, raw), where))

    async def _thread(self, due: float) -> None:
        """Wait for a thread. Work is handed to the threads' own queue only then, so that none holds a body in vain."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due, next(self._count), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came in the moment in which it was given up
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _is_slow(raw: bytes) -> bool:
    """Whether an image file may take many seconds to decode."""
    return len(raw) > SLOW_BYTES and is_dicom(raw) and CODE_START in raw


def _refusing(decode: Callable[[], T], where: str = "") -> T:
    """The result of a decoder.

    Raises:
        Problem: The file can't be decoded.
    """
    try:
        return decode()
    except UnreadableImageError as error:
        refusal: Problem = unreadable(error, where)
        raise refusal from error
