"""`pneumonia serve`: a bundle behind HTTP, and a page."""

import argparse
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pneumonia.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.serving.limits import Limits

SAGEMAKER: Final = Path("/opt/ml/model")  # where SageMaker puts model.tar.gz, unpacked
MIN_TOKEN: Final = 16  # characters; shorter ones can be guessed
DESCRIPTION: Final = """Answers images over HTTP: GET /ping, POST /invocations (JPEG, PNG, DICOM, or JSON with base64),
POST /explanation, /contract, /metrics, /docs, and a page for people at /. Ends after SIGTERM when what is in flight is answered.
Not a medical device."""
LIMITS: Final = {
    "body_mib": "MiB of one request (32)",
    "held_mib": "MiB of all requests in flight together (128)",
    "megapixels": "millions of pixels of one image (25)",
    "request_megapixels": "millions of pixels of all images of one request (250)",
    "images": "images in one request (64)",
    "at_once": "requests being answered; one more gets 429 (64)",
    "header_s": "seconds for the headers of a request to arrive (10)",
    "body_s": "seconds for its body to arrive (30)",
    "answer_s": "seconds for its answer, waiting included (60)",
    "drain_s": "seconds for what is in flight when told to stop (20)",
    "workers": "threads that decode and compute (0: as many as cores, 8 at most)",
}


def run(arguments: list[str]) -> int:
    """Serve until told to stop.

    Returns:
        The exit code.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    options = _parser().parse_args(arguments)
    folder = bundle_folder(options.bundle, os.environ)
    token = read_token(options.token_file, os.environ)
    port = _port(options.port or os.environ.get("PNEUMONIA_PORT") or os.environ.get("SAGEMAKER_BIND_TO_PORT") or "8080")
    host = options.host or os.environ.get("PNEUMONIA_HOST") or "127.0.0.1"
    limits = _limits(vars(options))
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(0)
    )  # while it still loads; later the server takes over
    try:
        from pneumonia.serving.server import ServerOptions, serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed, and the service needs it: pip install 'pneumonia[serve]'."
        ) from error
    return serve(
        folder, ServerOptions(host, port, token, options.tls_cert, options.tls_key, not options.no_page), limits
    )


def bundle_folder(named: Path | None, environ: Mapping[str, str]) -> Path:
    """The bundle that is named, or that ``PNEUMONIA_BUNDLE`` names, or the one that SageMaker has unpacked.

    Raises:
        ConfigError: There is none of them.
    """
    if named is not None:
        return named
    if environ.get("PNEUMONIA_BUNDLE"):
        return Path(environ["PNEUMONIA_BUNDLE"])
    if SAGEMAKER.is_dir():
        return SAGEMAKER
    raise ConfigError(
        f"No bundle is named, PNEUMONIA_BUNDLE is not set, and there is no {SAGEMAKER}. Say `pneumonia serve BUNDLE`, with the "
        "folder that `pneumonia export RUN --out BUNDLE` made."
    )


def read_token(path: Path | None, environ: Mapping[str, str]) -> str | None:
    """The token that callers must know, from a file or ``PNEUMONIA_TOKEN``; ``None`` where neither is given.

    Raises:
        ConfigError: It can't be read, is short, or has characters that no header can carry.
    """
    if path is None and "PNEUMONIA_TOKEN" not in environ:
        return None
    where = str(path) if path is not None else "PNEUMONIA_TOKEN"
    try:
        token = (path.read_text(encoding="ascii") if path is not None else environ["PNEUMONIA_TOKEN"]).strip()
    except UnicodeDecodeError:
        token = " "
    except OSError as error:
        raise ConfigError(
            f"{where} can't be read ({error.strerror}), and without it the service would be open."
        ) from error
    if len(token) < MIN_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            f"{where} holds no token that will do: {MIN_TOKEN} or more letters, digits or signs of ASCII without spaces, or it "
            "could be guessed. `openssl rand -hex 32` makes one."
        )
    return token


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pneumonia serve", description=DESCRIPTION)
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="?",
        type=Path,
        help=f"folder of `pneumonia export`; else PNEUMONIA_BUNDLE, else {SAGEMAKER}",
    )
    parser.add_argument("--host", help="address to listen at (PNEUMONIA_HOST, or 127.0.0.1: this machine alone)")
    parser.add_argument("--port", help="port; 0 takes any (PNEUMONIA_PORT, SAGEMAKER_BIND_TO_PORT, or 8080)")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="what callers must know (or PNEUMONIA_TOKEN)")
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate, PEM")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="its key, PEM")
    parser.add_argument("--no-page", action="store_true", help="no page at /")
    group = parser.add_argument_group("limits")
    for name, text in LIMITS.items():
        group.add_argument("--" + name.replace("_", "-"), metavar="N", dest=name, help=text)
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ConfigError(f"Port {text} is none: say a number from 0 to 65535, for example 8080.")
    return int(text)


def _limits(said: Mapping[str, Any]) -> "Limits":
    from pneumonia.serving.limits import Limits, number

    kinds = {field.name: int if field.type in {int, "int"} else float for field in fields(Limits)}
    return Limits(**{name: number(kinds[name], name, said[name]) for name in LIMITS if said[name] is not None})
