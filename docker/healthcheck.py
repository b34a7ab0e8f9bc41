"""The containers' health check: status 0 if the server in this container is ready for requests.

Port and TLS are those of the environment variables; flags of `serve` are not seen here.
"""

import os
import ssl
import sys
from urllib.error import URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

TIMEOUT_S = 9


def main() -> int:
    port = os.environ.get("QWEN3VL_SERVER__PORT", "8000")
    has_tls = "QWEN3VL_SERVER__SSL_CERTFILE" in os.environ
    url = f"{'https' if has_tls else 'http'}://127.0.0.1:{port}/ready"
    # The certificate names the address that clients use, not this one.
    tls = HTTPSHandler(context=ssl._create_unverified_context())
    try:
        with build_opener(ProxyHandler({}), tls).open(url, timeout=TIMEOUT_S):
            return 0
    except (URLError, TimeoutError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
