"""The client of a cluster's jobs: it sends the token, and waits for no answer without end."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from seqgen.core.errors import OperationalError, one_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ANSWER = (10, 60)  # seconds to connect, and to the answer


def send_token() -> None:
    """Have Ray's client send the token; to be called before Ray is imported. Who wants none does not mind it."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at `address`, with the token. Raises OperationalError.

    Its requests raise RuntimeError or OSError.
    """
    # Ray prefers this, and RAY_ADDRESS, to what it is told: it would be the jobs of another cluster.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for chatty in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{chatty}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        # Ray's own method, with an end to waiting.
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": _ANSWER, **options})

    try:
        return Client(address)
    except AuthenticationError as error:
        raise OperationalError(
            f"{address} refuses us ({one_line(error)}); copy the head's ~/.ray/auth_token here, or name it with "
            "RAY_AUTH_TOKEN_PATH"
        ) from None
    except (ConnectionError, RuntimeError, requests.RequestException) as error:
        raise OperationalError(
            f"{address}: no cluster answers there ({one_line(error)}); check the address, or start it"
        ) from None
