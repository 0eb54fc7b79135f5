"""Tells one address that a job has ended: one POST, and when to try again.

Owns HTTP and the signature.  Must not know the queue.  The POST is a hint: who gets it asks the
host, and believes that.
"""

import hashlib
import hmac
import http.client
import urllib.error
import urllib.request
from typing import Any

#: Seconds that connecting, sending and answering may take each.
TIMEOUT = 10.0
#: How often an address is tried.
TRIES = 12
#: Seconds between two tries at most.
LONGEST = 300.0
SIGNATURE = "X-Nosejobs-Signature"


def backoff(tries: int) -> float:
    """Seconds until the next try, after so many in vain."""
    return float(min(2 ** min(max(tries - 1, 0), 16), LONGEST))


def signature(secret: str, body: bytes) -> str:
    """What the receiver computes too, and compares."""
    key = secret.encode("utf-8", "surrogatepass")
    return "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Where a job's owner did not say it may go, nothing goes."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(url: str, secret: str, body: str) -> str:
    """Deliver it; empty if that has succeeded, else what was wrong."""
    if not url.lower().startswith(("http://", "https://")):
        return "not an http:// or https:// address"
    data = body.encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "application/json", "User-Agent": "nosejobs"}
    if secret:
        headers[SIGNATURE] = signature(secret, data)
    try:
        request = urllib.request.Request(url, data, headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return "answered %d %s" % (error.code, error.reason)
    except urllib.error.URLError as error:
        return "cannot be reached: %s" % (error.reason,)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return "%s: %s" % (type(error).__name__, error)
