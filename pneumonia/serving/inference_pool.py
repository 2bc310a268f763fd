"""Decode and predict images in a few threads, one image at a time, so that no request delays the others for long."""

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
from pneumonia.export.prediction import Prediction
from pneumonia.export.runtime import Bundle
from pneumonia.serving.explanation import Explanation, explanation_steps
from pneumonia.serving.limits import Limits
from pneumonia.serving.problem import Problem
from pneumonia.serving.request_parsing import Image, ParsedRequest, check_file, parse_request, unreadable
from pneumonia.serving.telemetry import THREAD_PREFIX

T = TypeVar("T")
Parsed = TypeVar("Parsed", bound=ParsedRequest)
WAIT_S_PER_MEGAPIXEL: Final = 1.0  # far more than a megapixel takes, so that small requests overtake large ones
SLOW_BYTES: Final = 2**20  # of JPEG 2000: a megabyte of it takes longer to decode than any other image
POLL_S: Final = 0.05
STEP_PIXELS: Final = 1_000_000  # the cost of one batch of an explanation


class QueuePosition:
    """The position of a request in the queue: its arrival, plus a second for each megapixel that it has used so far.

    A small request overtakes a large one, and every request is first at some time.
    """

    def __init__(self) -> None:
        self.due = time.monotonic()

    def after(self, pixels: int) -> float:
        """Return when work on this many more pixels is due, in seconds of the monotonic clock."""
        self.due += pixels / 1e6 * WAIT_S_PER_MEGAPIXEL
        return self.due


class InferencePool:
    """Threads that predict image files with a bundle; ONNX Runtime and the decoders release Python's lock.

    The unit of work is one image, or one batch of an explanation. Between two units, other requests have their turn, and a
    cancelled request (its client is gone, or its time is over) ends. A running unit can't be interrupted, so a cancelled request
    counts as in flight until its unit ends. Slow images never take the last of several threads.

    Args:
        bundle: Predicts.
        limits: Of images, pixels and threads.
    """

    def __init__(self, bundle: Bundle, limits: Limits) -> None:
        self.bundle = bundle
        self.limits = limits
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix=THREAD_PREFIX)
        self._free = limits.workers
        self._slow = asyncio.Semaphore(max(limits.workers - 1, 1))
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    async def predict(self, body: bytes, kind: str) -> tuple[ParsedRequest, list[Prediction]]:
        """Predict the images of a request, from its whole body and media type.

        Raises:
            Problem: With the number of the image where there are several.
        """
        return await self.predict_parsed(partial(parse_request, body, kind, self.limits))

    async def predict_parsed(self, parse: Callable[[], Parsed]) -> tuple[Parsed, list[Prediction]]:
        """Parse a request in a thread, then predict its images.

        Raises:
            Problem: With the number of the image where there are several.
        """
        position = QueuePosition()
        parsed = await self.run(parse, position.due)
        predictions = []
        for number, (image, pixels) in enumerate(zip(parsed.images, parsed.pixels, strict=True)):
            work = partial(self._predict, image, f"images[{number}]: " if parsed.is_list else "")
            predictions.append(await self.run(work, position.after(pixels), _is_slow(image)))
        return parsed, predictions

    async def explain(self, body: bytes, kind: str) -> Explanation:
        """Explain the prediction of one image file of a media type other than JSON.

        Raises:
            Problem: Why the file can't be read.
        """
        position = QueuePosition()
        pixels = await self.run(partial(check_file, body, kind, self.limits), position.due)
        steps = explanation_steps(self.bundle, body)
        step = partial(_translate_errors, steps.__next__)
        # The first step decodes twice: for the network and for the picture.
        explanation = await self.run(step, position.after(2 * pixels), _is_slow(body))
        while explanation is None:
            explanation = await self.run(step, position.after(STEP_PIXELS))
        return explanation

    async def run(self, work: Callable[[], T], due: float = 0.0, slow: bool = False) -> T:
        """Run a unit of work as soon as a thread is free and no other unit is due earlier.

        Args:
            work: The unit.
            due: From :meth:`QueuePosition.after`.
            slow: Whether it may take many seconds.

        Raises:
            CancelledError: After the unit has ended, or at once where it had not started.
        """
        async with self._slow if slow else nullcontext():
            await self._acquire(due)
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
            future.add_done_callback(lambda _: self._release())
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                await asyncio.wait([future])
                raise

    def warm_up(self) -> None:
        """Predict a blank image, so that the first request does not wait for what is loaded on first use."""
        self._predict(cv2.imencode(".jpeg", np.zeros((256, 256), dtype=np.uint8))[1].tobytes())

    def close(self) -> None:
        """Accept no more work; running units end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def is_idle(self, within_s: float) -> bool:
        """Return whether all running units end within some seconds."""
        end = time.monotonic() + within_s
        while self._free < self.limits.workers and time.monotonic() < end:
            await asyncio.sleep(POLL_S)
        return self._free == self.limits.workers

    def _predict(self, image: Image, prefix: str = "") -> Prediction:
        if isinstance(image, bytes):
            image = _translate_errors(partial(self.bundle.decode, image), prefix)
        return self.bundle.predict_square(image)

    async def _acquire(self, due: float) -> None:
        """Wait for a thread; the executor's own queue stays empty, so it keeps no body of a cancelled request."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due, next(self._count), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the thread was handed over at the moment of the cancellation
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _is_slow(raw: Image) -> bool:
    """Return whether an image file may take many seconds to decode."""
    return isinstance(raw, bytes) and len(raw) > SLOW_BYTES and is_dicom(raw) and CODE_START in raw


def _translate_errors(decode: Callable[[], T], prefix: str = "") -> T:
    """Return the result of a decoder; raise a ``Problem`` if it fails."""
    try:
        return decode()
    except UnreadableImageError as error:
        problem: Problem = unreadable(error, prefix)
        raise problem from error
