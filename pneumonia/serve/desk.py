"""Where images are answered: a few threads that decode and compute, and what waits for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np

from pneumonia.bundle.answers import Answer, Bundle
from pneumonia.data.images import UnreadableImageError
from pneumonia.serve.intake import JPEG, Asked, unpack, unreadable
from pneumonia.serve.limits import Limits

T = TypeVar("T")


class Desk:
    """Answers image files with a bundle, away from the event loop; ONNX Runtime and the decoders let other threads run.

    How many wait is bounded by the guard (``at_once``). Work that no one waits for any more is dropped before it begins.

    Args:
        bundle: That answers.
        limits: Of images, pixels and threads.
    """

    def __init__(self, bundle: Bundle, limits: Limits) -> None:
        self.bundle = bundle
        self.limits = limits
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="desk")

    async def run(self, work: Callable[[], T]) -> T:
        """The result of a piece of work in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def work(self, body: bytes, kind: str) -> tuple[Asked, list[Answer]]:
        """What the bundle says of the images of a request; runs in the thread that calls it.

        Args:
            body: Of the request.
            kind: Its media type.

        Raises:
            Refusal: With what is wrong, and with which image where there are several.
        """
        asked = unpack(body, kind, self.limits)
        answers = []
        for place, file in enumerate(asked.files):
            try:
                square = self.bundle.square(file)
            except UnreadableImageError as error:
                raise unreadable(error, f"images[{place}]: " if asked.several else "") from error
            answers.append(self.bundle.answer_square(square))
        return asked, answers

    def warm_up(self) -> None:
        """Answers a blank, so that the first caller does not wait for what is loaded on first use."""
        blank = cv2.imencode(".jpeg", np.zeros((256, 256), dtype=np.uint8))[1].tobytes()
        self.work(blank, JPEG)

    def close(self) -> None:
        """Ends the threads once they have done what they began."""
        self._pool.shutdown(wait=True, cancel_futures=True)
