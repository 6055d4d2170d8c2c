#!/usr/bin/python3
"""Wait until a service on this host answers; print what its JSON answer holds.

usage: probe.py SECONDS URL [CA-FILE]
  http URL of CFSSL's info: POST {}, print the certificate it answers with.
  other http URL: GET it, print what it answers.
  https URL: GET it on the loopback, with the certificate checked for the name in the URL.
Exit status 1, with the last error on standard error, when the time is over.
       probe.py taken PORT
Exit status 0 where something listens there on the loopback.
"""

import http.client
import json
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

_LOOPBACK = "127.0.0.1"


def ask(url, authority):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(_LOOPBACK, parts.port, timeout=3)
    if parts.scheme == "http" and parts.path.endswith("/info"):
        connection.request("POST", parts.path, b"{}", {"Content-Type": "application/json"})
    elif parts.scheme == "http":
        connection.request("GET", parts.path)
    else:
        plain = socket.create_connection((_LOOPBACK, parts.port), timeout=3)
        context = ssl.create_default_context(cafile=authority)
        # What is given is trusted, though it be an intermediate authority; named since Python 3.10.
        context.verify_flags |= 0x80000  # X509_V_FLAG_PARTIAL_CHAIN
        connection.sock = context.wrap_socket(plain, server_hostname=parts.hostname)
        connection.request("GET", parts.path, headers={"Connection": "close"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise ValueError(f"HTTP {response.status}")
    if parts.scheme == "http" and not parts.path.endswith("/info"):
        return body
    data = json.loads(body)
    text = data["result"]["certificate"] if parts.scheme == "http" else data["status"]
    return f"{text}\n".encode()


def taken(port):
    try:
        socket.create_connection((_LOOPBACK, int(port)), timeout=3).close()
    except OSError:
        return 1
    return 0


def main(seconds, url, authority=None):
    if seconds == "taken":
        return taken(url)
    deadline = time.monotonic() + float(seconds)
    while True:
        try:
            sys.stdout.buffer.write(ask(url, authority))
            return 0
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                print(f"{url}: {error}", file=sys.stderr)
                return 1
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
