"""Test the endpoint up to the network: botocore's stubber checks every call against AWS's own API model."""

import argparse
import importlib.util
import io
from pathlib import Path

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from pneumonia.errors import BundleError, ConfigError, TransferError

HERE = Path(__file__).parents[2] / "deploy"
ROLE = "arn:aws:iam::123456789012:role/xray-endpoint"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/pneumonia-serve:1"
MISSING = {"service_error_code": "ValidationException", "service_message": "Could not find endpoint"}


@pytest.fixture(scope="module")
def sagemaker():
    spec = importlib.util.spec_from_file_location("deploy_sagemaker", HERE / "sagemaker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stubs(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    options = {"region_name": "eu-west-1", "aws_access_key_id": "none", "aws_secret_access_key": "none"}
    clients = {name: boto3.client(name, **options) for name in ("s3", "sagemaker", "sagemaker-runtime")}
    found = {name: Stubber(client) for name, client in clients.items()}
    for stub in found.values():
        stub.activate()
    found["clients"] = clients
    yield found
    for name in clients:
        found[name].assert_no_pending_responses()


@pytest.fixture
def options(tmp_path):
    (tmp_path / "model.tar.gz").write_bytes(b"a bundle")
    return argparse.Namespace(
        bundle=tmp_path,
        name="xray",
        image=IMAGE,
        role=ROLE,
        bucket="models",
        prefix="/p/",
        memory_mb=2048,
        max_concurrency=5,
    )


def _described(status, config="x", **more):
    return {
        "EndpointName": "xray",
        "EndpointArn": "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/xray",
        "EndpointConfigName": config,
        "EndpointStatus": status,
        "CreationTime": 0,
        "LastModifiedTime": 0,
        **more,
    }


def _made(stubs, serving):
    """Stub the responses to all calls that create a version, and return the requests."""
    asked = {}

    class Keep:
        def __init__(self, name):
            self.name = name

        def __eq__(self, value):
            return asked.setdefault(self.name, value) == value

    stub = stubs["sagemaker"]
    if serving:
        stub.add_response("describe_endpoint", serving, {"EndpointName": "xray"})
    else:
        stub.add_client_error("describe_endpoint", **MISSING)
    stubs["s3"].add_response("put_object", {}, {"Bucket": "models", "Key": Keep("key"), "Body": ANY, "ContentType": ANY})
    stub.add_client_error("describe_model", **MISSING)
    container = {"Image": IMAGE, "ModelDataUrl": Keep("url")}
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:model/xray"
    stub.add_response(
        "create_model",
        {"ModelArn": arn},
        {"ModelName": Keep("version"), "ExecutionRoleArn": ROLE, "PrimaryContainer": container},
    )
    stub.add_client_error("describe_endpoint_config", **MISSING)
    variant = {
        "VariantName": "all",
        "ModelName": Keep("version"),
        "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5},
    }
    stub.add_response(
        "create_endpoint_config",
        {"EndpointConfigArn": "arn:aws:sagemaker:eu-west-1:123456789012:endpoint-config/xray"},
        {"EndpointConfigName": Keep("version"), "ProductionVariants": [variant]},
    )
    stub.add_response(
        "update_endpoint" if serving else "create_endpoint",
        {"EndpointArn": _described("")["EndpointArn"]},
        {"EndpointName": "xray", "EndpointConfigName": Keep("version")},
    )
    return asked


def test_deploying_the_same_bundle_twice_changes_nothing(sagemaker, stubs, options, monkeypatch, capsys):
    monkeypatch.setattr(sagemaker, "POLL_S", 0)
    asked = _made(stubs, None)
    for status in ("Creating", "Creating", "InService"):
        stubs["sagemaker"].add_response("describe_endpoint", _described(status))
    assert sagemaker.up(stubs["clients"], options) == "InService"
    assert asked["url"] == f"s3://models/{asked['key']}"
    assert asked["key"].startswith("p/")
    assert asked["version"].startswith("xray-")
    assert capsys.readouterr().err.count("Creating") == 2
    stubs["sagemaker"].add_response("describe_endpoint", _described("InService", asked["version"]))
    assert sagemaker.up(stubs["clients"], options) == "InService"


def test_another_bundle_updates_the_endpoint_and_a_failure_says_why(sagemaker, stubs, options):
    _made(stubs, _described("InService", "xray-older"))
    stubs["sagemaker"].add_response("describe_endpoint", _described("Failed", FailureReason="The image has no such tag."))
    with pytest.raises(TransferError, match=r"xray is Failed: The image has no such tag\."):
        sagemaker.up(stubs["clients"], options)


def test_image_is_sent_as_what_it_is(sagemaker, stubs, tmp_path):
    (tmp_path / "a.png").write_bytes(b"pixels")
    body = StreamingBody(io.BytesIO(b'{"label": "VIRUS"}'), 18)
    stubs["sagemaker-runtime"].add_response(
        "invoke_endpoint",
        {"Body": body, "ContentType": "application/json"},
        {"EndpointName": "xray", "ContentType": "image/png", "Accept": "application/json", "Body": b"pixels"},
    )
    asked = argparse.Namespace(name="xray", file=tmp_path / "a.png")
    assert sagemaker.call(stubs["clients"], asked) == '{"label": "VIRUS"}'
    with pytest.raises(ConfigError, match=r"a\.txt is no file with the ending \.jpeg"):
        sagemaker.call(stubs["clients"], argparse.Namespace(name="xray", file=tmp_path / "a.txt"))


def test_down_removes_endpoint_configuration_and_model(sagemaker, stubs):
    stub = stubs["sagemaker"]
    stub.add_response("describe_endpoint", _described("InService", "xray-1"))
    stub.add_response(
        "describe_endpoint_config",
        {
            "EndpointConfigName": "xray-1",
            "EndpointConfigArn": "arn:aws:sagemaker:eu-west-1:123456789012:endpoint-config/xray-1",
            "ProductionVariants": [{"VariantName": "all", "ModelName": "xray-1"}],
            "CreationTime": 0,
        },
        {"EndpointConfigName": "xray-1"},
    )
    stub.add_response("delete_endpoint", {}, {"EndpointName": "xray"})
    stub.add_response("delete_endpoint_config", {}, {"EndpointConfigName": "xray-1"})
    stub.add_response("delete_model", {}, {"ModelName": "xray-1"})
    sagemaker.down(stubs["clients"], argparse.Namespace(name="xray"))
    stub.add_client_error("describe_endpoint", **MISSING)
    with pytest.raises(TransferError, match="There is no endpoint xray"):
        sagemaker.down(stubs["clients"], argparse.Namespace(name="xray"))


def test_what_can_not_work_is_refused_before_aws_is_asked(sagemaker, stubs, options):
    options.memory_mb = 1000
    with pytest.raises(ConfigError, match="--memory-mb 1000: serverless endpoints have 1024, 2048"):
        sagemaker.up(stubs["clients"], options)
    (options.bundle / "model.tar.gz").unlink()
    with pytest.raises(BundleError, match=r"holds no model\.tar\.gz.*pneumonia export"):
        sagemaker.up(stubs["clients"], options)


def test_no_region_and_no_credentials_are_named(sagemaker, options, monkeypatch, capsys, tmp_path):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    arguments = ["up", str(options.bundle), "--name", "xray", "--image", IMAGE, "--role", ROLE, "--bucket", "models"]
    assert sagemaker.main(arguments) == 2
    assert "AccessError: You must specify a region. Set AWS_REGION" in capsys.readouterr().err
