"""S3, spoken to in one way: the client, what is tried again, and what its errors mean to a person."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar

from seqgen.core.errors import BadInput, OperationalError, SeqgenError, one_line, redact

_ATTEMPTS = 6  # of a request, unless AWS_MAX_ATTEMPTS says otherwise; half a minute of pauses at most
_CONNECT, _SILENCE = 10, 30  # seconds
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
# What a request may not meet again, besides a status of 500 and more, but for 501.
_PASSING = ("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "Throttling", "BadDigest")
_REMEDIES = {
    "AccessDenied": "this key lacks the right to: infra/ has the policy that it needs",
    "NoSuchBucket": "create the bucket or correct the address",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
    "PermanentRedirect": "set AWS_REGION to the bucket's",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's",
}
_Value = TypeVar("_Value")


def client() -> Any:
    """This process's client: one for as long as its AWS_* variables stay what they are.

    Credentials come from boto3's own chain. An answer of 500 or 503, a reset and a silence are tried again, after
    pauses that grow and are drawn at random.
    """
    aws = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _client(os.getpid(), aws)


@lru_cache(maxsize=1)
def _client(process: int, aws: frozenset[tuple[str, str]]) -> Any:
    import boto3
    import botocore.config

    retries: dict[str, Any] = {"mode": "standard"}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = _ATTEMPTS
    config = botocore.config.Config(
        connect_timeout=_CONNECT, read_timeout=_SILENCE, retries=retries, max_pool_connections=16
    )
    return boto3.Session().client("s3", config=config)


def ask(address: str, call: Callable[[Any], _Value]) -> _Value:
    """`call(client())`, once more with credentials looked up anew if they have expired.

    Raises what `explained` makes of an error; `address` is what is asked for, as s3://bucket/key.
    """
    import botocore.exceptions as errors
    from boto3.exceptions import Boto3Error

    renewed = False
    while True:
        try:
            speaker = client()
        except (errors.BotoCoreError, ValueError) as error:  # an endpoint that is no address
            raise explained(address, error) from error
        try:
            return call(speaker)
        except (errors.BotoCoreError, errors.ClientError, Boto3Error) as error:
            if code(error) in _EXPIRED and not renewed:
                _client.cache_clear()
                renewed = True
                continue
            raise explained(address, error) from error


def code(error: Exception) -> str | None:
    """What S3 answered, as in "NoSuchKey"; None if it did not answer."""
    answer = getattr(error, "response", None)
    return answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None


def explained(address: str, error: Exception) -> SeqgenError:
    """An error of boto3 as the project's: BadInput for a refusal, OperationalError for what may pass by itself."""
    import botocore.exceptions as errors
    from boto3.exceptions import Boto3Error

    if isinstance(error, errors.ClientError):
        return _answered(address, error)
    if isinstance(error, (errors.NoCredentialsError, errors.PartialCredentialsError)):
        return BadInput(
            f"{address}: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, errors.FlexibleChecksumError):
        return OperationalError(f"{address}: altered on its way{_endpoint()}: {one_line(error)}; try again")
    unheard = (errors.ConnectionError, errors.HTTPClientError, errors.IncompleteReadError, Boto3Error)
    if isinstance(error, unheard):
        return OperationalError(
            f"{address}: the S3 server{_endpoint()} cannot be reached: {one_line(error)}; "
            "see that it runs, or correct AWS_ENDPOINT_URL"
        )
    if isinstance(error, errors.CredentialRetrievalError):
        return OperationalError(f"{address}: {one_line(error)}; see to where the credentials come from")
    return BadInput(f"{address}: {one_line(error)}; correct the address or the AWS_* variables")


def _answered(address: str, error: Any) -> SeqgenError:
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    reason = code(error) or f"HTTP {status}"
    said = f"{address}: {error.operation_name} was answered {reason}{_endpoint()}"
    if reason == "RequestTimeTooSkewed":
        return OperationalError(f"{said}: the clock of this machine is wrong{_skew(answer)}; set it")
    if reason in _EXPIRED:
        return OperationalError(
            f"{said}: the credentials have expired and no newer ones were found; renew them and go on"
        )
    if status == 501:
        return BadInput(
            f"{said}: this server lacks what is asked (If-None-Match, for one); use another storage"
        )
    if status >= 500 or status in (408, 429) or reason in _PASSING:
        return OperationalError(f"{said}, {answer.get('RetryAttempts', 0) + 1} times; try again later")
    remedy = _REMEDIES.get(reason, "correct the address or the AWS credentials")
    return BadInput(f"{said}; {remedy}")


def _skew(answer: dict[str, Any]) -> str:
    """By how much, as the answer's own date tells."""
    try:
        there = parsedate_to_datetime(answer["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return ""
    seconds = round((datetime.now(UTC) - there).total_seconds())
    return f": {abs(seconds)} seconds {'ahead of' if seconds > 0 else 'behind'} the server's"


def _endpoint() -> str:
    return f" at {redact(client().meta.endpoint_url)}"
