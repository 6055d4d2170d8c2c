#!/usr/bin/python3
"""Wait until a service on this host answers; print what its JSON answer holds.

usage: probe.py SECONDS URL [CA-FILE]
  http URL: POST {} to CFSSL's info, print the certificate it answers with.
  https URL: GET it on the loopback, with the certificate checked for the name in the URL.
Exit status 1, with the last error on standard error, when the time is over.
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
    if parts.scheme == "http":
        connection.request("POST", parts.path, b"{}", {"Content-Type": "application/json"})
    else:
        plain = socket.create_connection((_LOOPBACK, parts.port), timeout=3)
        context = ssl.create_default_context(cafile=authority)
        connection.sock = context.wrap_socket(plain, server_hostname=parts.hostname)
        connection.request("GET", parts.path, headers={"Connection": "close"})
    response = connection.getresponse()
    body = response.read(65536)
    connection.close()
    if response.status != 200:
        raise ValueError(f"HTTP {response.status}")
    data = json.loads(body)
    return data["result"]["certificate"] if parts.scheme == "http" else data["status"]


def main(seconds, url, authority=None):
    deadline = time.monotonic() + float(seconds)
    while True:
        try:
            print(ask(url, authority))
            return 0
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                print(f"{url}: {error}", file=sys.stderr)
                return 1
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
