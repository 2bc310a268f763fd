r"""Deploy a bundle as a serverless endpoint of SageMaker: upload it, create or update the endpoint, wait, delete.

    python deploy/sagemaker.py up BUNDLE --name xray --bucket B --role ARN \
        --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/pneumonia-serve:1
    python deploy/sagemaker.py call --name xray IMAGE
    python deploy/sagemaker.py down --name xray

The image is the Dockerfile's target `serve`, pushed to ECR in the same region. Names of model and configuration carry a digest
of the bundle and the settings, so `up` with the same bundle changes nothing, and another bundle replaces it without downtime.
Credentials are boto3's own: the environment, a profile, or the machine's role. Needs `pip install 'pneumonia[deploy]'`.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import Any, Final

from pneumonia.errors import AccessError, BundleError, ConfigError, PneumoniaError, TransferError

MEMORY_MB: Final = (1024, 2048, 3072, 4096, 5120, 6144)  # what serverless endpoints come in
TYPES: Final = {".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".dcm": "application/dicom"}
POLL_S: Final = 10.0
TIMEOUT_S: Final = 1200.0
DENIED: Final = {
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}


def up(clients: dict[str, Any], options: argparse.Namespace) -> str:
    """Create or update the endpoint of a bundle; return its status.

    Args:
        clients: boto3's of ``s3`` and ``sagemaker``.
        options: ``bundle``, ``name``, ``image``, ``role``, ``bucket``, ``prefix``, ``memory_mb``, ``max_concurrency``.

    Raises:
        BundleError: The folder holds no bundle.
        ConfigError: Serverless endpoints have no such memory size.
        TransferError: AWS refuses, or the endpoint failed to start; an existing endpoint keeps serving its bundle.
    """
    archive = options.bundle / "model.tar.gz"
    if not archive.is_file():
        raise BundleError(f"{options.bundle} holds no model.tar.gz. `pneumonia export RUN --out {options.bundle}` makes one.")
    if options.memory_mb not in MEMORY_MB:
        raise ConfigError(f"--memory-mb {options.memory_mb}: serverless endpoints have {', '.join(map(str, MEMORY_MB))} MB.")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    key = f"{options.prefix.strip('/')}/{digest[:12]}/model.tar.gz"
    settings = f"{digest} {options.image} {options.memory_mb} {options.max_concurrency}"
    versioned = f"{options.name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    sagemaker = clients["sagemaker"]
    serving = _endpoint(sagemaker, options.name)
    if serving and serving["EndpointConfigName"] == versioned and serving["EndpointStatus"] == "InService":
        return "InService"
    with archive.open("rb") as body:
        clients["s3"].put_object(Bucket=options.bucket, Key=key, Body=body, ContentType="application/gzip")
    if not _known(sagemaker.describe_model, ModelName=versioned):
        sagemaker.create_model(
            ModelName=versioned,
            ExecutionRoleArn=options.role,
            PrimaryContainer={"Image": options.image, "ModelDataUrl": f"s3://{options.bucket}/{key}"},
        )
    if not _known(sagemaker.describe_endpoint_config, EndpointConfigName=versioned):
        variant = {
            "VariantName": "all",
            "ModelName": versioned,
            "ServerlessConfig": {"MemorySizeInMB": options.memory_mb, "MaxConcurrency": options.max_concurrency},
        }
        sagemaker.create_endpoint_config(EndpointConfigName=versioned, ProductionVariants=[variant])
    change = sagemaker.update_endpoint if serving else sagemaker.create_endpoint
    change(EndpointName=options.name, EndpointConfigName=versioned)
    return _wait(sagemaker, options.name)


def down(clients: dict[str, Any], options: argparse.Namespace) -> None:
    """Delete an endpoint with its configuration and model, but nothing in S3.

    Raises:
        TransferError: There is no such endpoint, or AWS refuses.
    """
    sagemaker = clients["sagemaker"]
    serving = _endpoint(sagemaker, options.name)
    if serving is None:
        raise TransferError(f"There is no endpoint {options.name} in this region. Check --name and AWS_REGION.")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=serving["EndpointConfigName"])
    sagemaker.delete_endpoint(EndpointName=options.name)
    sagemaker.delete_endpoint_config(EndpointConfigName=serving["EndpointConfigName"])
    for variant in config["ProductionVariants"]:
        sagemaker.delete_model(ModelName=variant["ModelName"])


def call(clients: dict[str, Any], options: argparse.Namespace) -> str:
    """Return the prediction of the endpoint for an image, as JSON.

    Raises:
        ConfigError: The file is missing or has another ending.
        TransferError: AWS or the service refuses.
    """
    kind = TYPES.get(options.file.suffix.lower())
    if kind is None or not options.file.is_file():
        raise ConfigError(f"{options.file} is no file with the ending {', '.join(TYPES)}. Name an X-ray.")
    answer = clients["sagemaker-runtime"].invoke_endpoint(
        EndpointName=options.name, ContentType=kind, Accept="application/json", Body=options.file.read_bytes()
    )
    return str(answer["Body"].read().decode())


def _endpoint(sagemaker: Any, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = _known(sagemaker.describe_endpoint, EndpointName=name)
    return found


def _known(describe: Any, **name: str) -> Any:
    """Describe a resource; ``None`` where it does not exist, which SageMaker reports as a validation error."""
    from botocore.exceptions import ClientError

    try:
        return describe(**name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationException" and "Could not find" in str(error):
            return None
        raise


def _wait(sagemaker: Any, name: str) -> str:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = sagemaker.describe_endpoint(EndpointName=name)
        status = str(found["EndpointStatus"])
        if status == "InService":
            return status
        if status in {"Failed", "RollingBack", "UpdateRollbackFailed"}:
            reason = found.get("FailureReason", "no reason given; see CloudWatch's log of the endpoint")
            raise TransferError(f"The endpoint {name} is {status}: {reason}")
        print(f"{name}: {status}", file=sys.stderr, flush=True)
        time.sleep(POLL_S)
    raise TransferError(f"The endpoint {name} is not in service after {TIMEOUT_S:.0f} s; see `aws sagemaker describe-endpoint`.")


def main(arguments: list[str] | None = None) -> int:
    """Parse options and run a verb; return 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        "deploy/sagemaker.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    make, ask, remove = (verbs.add_parser(verb) for verb in ("up", "call", "down"))
    make.add_argument("bundle", type=Path, help="a folder that `pneumonia export` wrote")
    make.add_argument("--image", required=True, help="of the target `serve`, in ECR")
    make.add_argument("--role", required=True, help="ARN that SageMaker takes on: it may read the bucket and pull the image")
    make.add_argument("--bucket", required=True)
    make.add_argument("--prefix", default="pneumonia")
    make.add_argument("--memory-mb", type=int, default=2048)
    make.add_argument("--max-concurrency", type=int, default=5)
    ask.add_argument("file", type=Path, metavar="IMAGE")
    for one in (make, ask, remove):
        one.add_argument("--name", required=True, help="of the endpoint")
    options = parser.parse_args(arguments)
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        print("deploy/sagemaker.py needs boto3: pip install 'pneumonia[deploy]'", file=sys.stderr)
        return 2
    try:
        clients = {name: boto3.client(name) for name in ("s3", "sagemaker", "sagemaker-runtime")}
        print({"up": up, "call": call, "down": down}[options.verb](clients, options) or "removed")
    except PneumoniaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except ClientError as error:
        named = AccessError if error.response["Error"]["Code"] in DENIED else TransferError
        print(f"{named.__name__}: AWS refuses: {error}", file=sys.stderr)
        return 2
    except BotoCoreError as error:  # no region, no credentials, no network
        print(f"AccessError: {error} Set AWS_REGION and credentials, for example with `aws configure`.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
