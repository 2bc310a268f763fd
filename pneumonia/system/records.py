"""Parse JSON into dataclasses, whose field types are checked."""

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pneumonia.errors import some

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def parse_record(kind: type[T], text: str | bytes) -> T:
    """Parse JSON into a dataclass; keys that it does not have are ignored.

    Raises:
        ValueError: In one line: the missing keys, or the first value of a wrong type.
    """
    from pydantic import ValidationError

    try:
        # mypy takes classes of dataclasses for unhashable
        found: T = _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lacking = [_name(one["loc"]) for one in problems if one["type"] == "missing"]
        first = f"{_name(problems[0]['loc']) or 'the content'}: {problems[0]['msg']}"
        raise ValueError(f"it lacks {some(lacking)}" if lacking else first) from error
    return found


def _name(keys: tuple[int | str, ...]) -> str:
    return ".".join(map(str, keys))


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # a tenth of a second, not needed to write a record

    return TypeAdapter(kind)
