"""Check the jobs of a sweep before any of them runs: their settings, files and images."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import PneumoniaError
from pneumonia.sweep.plan import Job, grouped
from pneumonia.system.files import digest
from pneumonia.training.prepare import prepare_without_data


def check_jobs(groups: Mapping[str, list[Job]]) -> None:
    """Check the first job of each group as its run will, but for the data.

    Raises:
        PneumoniaError: The error of the first job, if no job is valid.
    """
    _raise_if_all_fail(groups, lambda job: prepare_without_data(job.config))


def load_images(jobs: Iterable[Job], cache: RunDataCache) -> None:
    """Decode the images of all jobs once, with progress on the terminal.

    Raises:
        PneumoniaError: The error of the first job, if no job's images can be read.
    """

    def load(job: Job) -> None:
        config = job.config
        cache.images(config.data, config.image_size, Path(config.cache_dir), config.task.build(), every_class=True)

    def what(job: Job) -> str:
        return digest([asdict(job.config.data), job.config.image_size, job.config.task.build().to_plain()])

    _raise_if_all_fail(grouped(jobs, what), load)


def _raise_if_all_fail(groups: Mapping[str, list[Job]], check: Callable[[Job], object]) -> None:
    """Check the first job of each group; jobs that fail while others don't report their error when they run."""
    errors: list[PneumoniaError] = []
    for group in groups.values():
        try:
            check(group[0])
        except PneumoniaError as error:
            errors.append(error)
    if errors and len(errors) == len(groups):
        raise errors[0]
