"""`pneumonia serve`: serve a bundle over HTTP, with a web page."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

from pneumonia.cli.parsing import FILE, PATH, Verb, options
from pneumonia.errors import ConfigError
from pneumonia.serving.limits import Limits, option_name

SAGEMAKER: Final = Path("/opt/ml/model")  # where SageMaker unpacks model.tar.gz
MIN_TOKEN: Final = 16  # characters; shorter ones can be guessed
limits: Final = options(
    *(
        click.option(
            option_name(limit.name),
            metavar="N",
            type=click.INT if limit.type in {int, "int"} else click.FLOAT,
            default=limit.default,
            help=limit.metadata["help"],
        )
        for limit in fields(Limits)
    )
)


@click.command(cls=Verb, examples=["pneumonia serve bundle --port 8080"])
@click.argument("bundle", metavar="[BUNDLE]", required=False, envvar="PNEUMONIA_BUNDLE", type=PATH)
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="PNEUMONIA_HOST",
    show_envvar=True,
    help="Address to listen on; the default accepts this machine alone.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    envvar=["PNEUMONIA_PORT", "SAGEMAKER_BIND_TO_PORT"],
    show_envvar=True,
    help="Port; 0 for any free one.",
)
@click.option("--token-file", metavar="FILE", type=PATH, help="Token that callers must send, or use PNEUMONIA_TOKEN.")
@click.option("--tls-cert", metavar="FILE", type=FILE, help="Certificate, PEM.")
@click.option("--tls-key", metavar="FILE", type=FILE, help="Key of the certificate, PEM.")
@click.option("--page/--no-page", default=True, help="Serve the web page at /.")
@limits
def command(
    bundle: Path | None,
    host: str,
    port: int,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    page: bool,
    **values: Any,
) -> int:
    """Serve predictions of BUNDLE over HTTP. Not a medical device.

    Routes: GET /ping, POST /invocations (JPEG, PNG, DICOM, or JSON with base64), POST /explanation, /contract, /metrics, /docs,
    the Open Inference Protocol below /v2, and a web page at /. On SIGTERM the requests in flight are answered first. BUNDLE is a
    folder of `pneumonia export`; without it PNEUMONIA_BUNDLE, then /opt/ml/model (SageMaker) are used.
    """
    folder = bundle_folder(bundle)
    token = read_token(token_file, os.environ)
    service_limits = Limits(**values)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # until the server handles it
    try:
        from pneumonia.serving.server import ServerOptions, serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed, and the service needs it: pip install 'pneumonia[serve]'.") from error
    return serve(folder, ServerOptions(host, port, token, tls_cert, tls_key, page), service_limits)


def bundle_folder(named: Path | None) -> Path:
    """Return the named bundle, or the one that SageMaker has unpacked.

    Raises:
        ConfigError: There is neither.
    """
    if named is not None or SAGEMAKER.is_dir():
        return named or SAGEMAKER
    raise ConfigError(
        f"No bundle is named, PNEUMONIA_BUNDLE is not set, and there is no {SAGEMAKER}. Use `pneumonia serve BUNDLE` with a "
        "folder that `pneumonia export RUN --out BUNDLE` has written."
    )


def read_token(path: Path | None, environ: Mapping[str, str]) -> str | None:
    """Read the token that callers must send, from a file or ``PNEUMONIA_TOKEN``; ``None`` if neither is given.

    Raises:
        ConfigError: The token can't be read, is short, or has characters that no header can carry.
    """
    if path is None and "PNEUMONIA_TOKEN" not in environ:
        return None
    where = str(path) if path is not None else "PNEUMONIA_TOKEN"
    try:
        token = (path.read_text(encoding="ascii") if path is not None else environ["PNEUMONIA_TOKEN"]).strip()
    except UnicodeDecodeError:
        token = " "
    except OSError as error:
        raise ConfigError(f"{where} can't be read ({error.strerror}), and without it the service would be open.") from error
    if len(token) < MIN_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            f"{where} holds no valid token: {MIN_TOKEN} or more ASCII letters, digits or signs without spaces; a shorter one "
            "could be guessed. `openssl rand -hex 32` makes one."
        )
    return token
