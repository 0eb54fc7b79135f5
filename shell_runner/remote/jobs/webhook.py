"""Delivery of a notification: one signed HTTP POST, and the delay before the next attempt.

Must not know the queue. The POST is a hint: the receiver asks the host and believes its answer.
"""

import hashlib
import hmac
from typing import Any

#: Seconds that connecting, sending and the response may take each.
POST_TIMEOUT = 10.0
#: Number of delivery attempts.
MAX_ATTEMPTS = 12
#: Maximum seconds between two delivery attempts.
MAX_RETRY_DELAY = 300.0
#: Name of the header with the signature.
SIGNATURE_HEADER = "X-Nosejobs-Signature"


def compute_retry_delay(attempts: int) -> float:
    """Return the seconds to wait after ``attempts`` failed attempts."""
    return float(min(2 ** min(max(attempts - 1, 0), 16), MAX_RETRY_DELAY))


def sign(secret: str, body: bytes) -> str:
    """Return the value of the signature header: the HMAC-SHA256 of ``body``."""
    key = secret.encode("utf-8", "surrogatepass")
    return "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()


def _build_opener() -> Any:
    """Return an opener that follows no redirect: the owner of the job named one address only."""
    import urllib.request

    class RedirectRefuser(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    return urllib.request.build_opener(RedirectRefuser)


def post(url: str, secret: str, body: str) -> str:
    """Send ``body``; return an empty text on success, else the error."""
    # Imported here, because most workers and dispatchers never send one, and it takes 1 MB.
    import http.client
    import urllib.error
    import urllib.request

    if not url.lower().startswith(("http://", "https://")):
        return "not an http:// or https:// address"
    data = body.encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "application/json", "User-Agent": "nosejobs"}
    if secret:
        headers[SIGNATURE_HEADER] = sign(secret, data)
    try:
        request = urllib.request.Request(url, data, headers, method="POST")
        with _build_opener().open(request, timeout=POST_TIMEOUT):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return "answered %d %s" % (error.code, error.reason)
    except urllib.error.URLError as error:
        return "cannot be reached: %s" % (error.reason,)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return "%s: %s" % (type(error).__name__, error)
