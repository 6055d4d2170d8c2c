#!/usr/bin/python3
"""Whether a CFSSL does all that is asked of one, on a certdb and with a CA of no consequence.

usage: try-cfssl.py CFSSL FOLDER DISABLED
  FOLDER holds config.json, db.json and certdb.sql as they are installed; DISABLED is for -disable.
Exit status 0, or 1 with its version and what it does not do on standard output.
"""

import base64
import hashlib
import hmac
import http.client
import json
import shlex
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 20
KEY = "6b" * 32
NEW_KEY = shlex.split("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256")


class Unfit(Exception):
    """What it does not do."""


def run(*words):
    try:
        answer = subprocess.run(words, capture_output=True, timeout=SECONDS)
    except OSError as error:
        raise Unfit(f"it can't be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Unfit(f"`{words[1]}` does not end") from None
    if answer.returncode:
        said = (answer.stderr + answer.stdout).decode(errors="replace").strip().splitlines()
        raise Unfit(f"`{words[1]}` fails: {said[-1] if said else answer.returncode}")
    return answer.stdout


def version(cfssl):
    for line in run(cfssl, "version").decode(errors="replace").splitlines():
        if line.startswith("Version:"):
            return line.split()[1]
    return "of no version"


def prepare(given, folder):
    """A CA, a request, and what CFSSL is configured with, but for where its files are."""
    request = ["openssl", "req", "-batch", *NEW_KEY, "-subj", "/O=system:nodes/CN=system:node:x"]
    authority = ["-x509", "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2"]
    for rest in (authority, ["-new", "-keyout", "key.pem", "-out", "request.pem"]):
        subprocess.run([*request, *rest], cwd=folder, check=True, capture_output=True)
    configuration = json.loads((given / "config.json").read_text())
    for key in configuration["auth_keys"].values():
        key["key"] = KEY
    # It is the program that is tried: hours that it can't take are the installation's to tell.
    signing = configuration["signing"]
    for profile in (signing["default"], *signing["profiles"].values()):
        profile["expiry"] = "24h"
    (folder / "config.json").write_text(json.dumps(configuration))
    source = json.loads((given / "db.json").read_text())
    options = source["data_source"].partition("?")[2]
    source["data_source"] = f"file:{folder}/certdb.sqlite?{options}"
    (folder / "db.json").write_text(json.dumps(source))
    with sqlite3.connect(folder / "certdb.sqlite") as database:
        database.executescript((given / "certdb.sql").read_text())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, name, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("POST", f"/api/v1/cfssl/{name}", json.dumps(body).encode())
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def serve(cfssl, folder, disabled):
    """What the service does all day: info, and authsign with a row for each certificate."""
    port = free_port()
    words = [cfssl, "serve", "-address", "127.0.0.1", "-port", str(port), "-disable", disabled]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*words, *files(folder)], stdout=output, stderr=output)
    try:
        await_answer(process, port, log)
        request = json.dumps(
            {
                "certificate_request": (folder / "request.pem").read_text(),
                "hosts": ["x"],
                "profile": "kubelet",
            }
        ).encode()
        token = hmac.new(bytes.fromhex(KEY), request, hashlib.sha256).digest()
        coded = {name: base64.b64encode(value).decode()
                 for name, value in (("token", token), ("request", request))}  # fmt: skip
        status, answer = ask(port, "authsign", coded)
        if status != 200:
            raise Unfit(f"it does not sign: {answer.decode(errors='replace').strip()}")
        if ask(port, "newcert", {"request": {"hosts": ["x"], "names": [{}]}})[0] == 200:
            raise Unfit("`serve -disable` leaves newcert open to anybody")
    finally:
        process.kill()
        process.wait()


def await_answer(process, port, log):
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if ask(port, "info", {})[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no reason given"]
            told = next((line for line in lines if "flag provided" in line), lines[-1])
            raise Unfit(f"`serve` does not answer: {told}")
        time.sleep(0.02)


def files(folder):
    return [
        *("-ca", f"{folder}/ca.pem", "-ca-key", f"{folder}/ca-key.pem"),
        *("-config", f"{folder}/config.json", "-db-config", f"{folder}/db.json"),
    ]


def check(cfssl, given, folder, disabled):
    prepare(given, folder)
    serve(cfssl, folder, disabled)
    with sqlite3.connect(folder / "certdb.sqlite") as database:
        found = database.execute("SELECT serial_number, authority_key_identifier FROM certificates")
        rows = found.fetchall()
    if len(rows) != 1:
        raise Unfit("it keeps no row of what it signs in the certdb")
    serial, identifier = (str(value) for value in rows[0])
    database = ["-db-config", f"{folder}/db.json"]
    run(cfssl, "revoke", *database, "-serial", serial, "-aki", identifier, "-reason", "superseded")
    authority = files(folder)[:4]
    crl = run(cfssl, "crl", "-loglevel", "3", *database, *authority, "-expiry", "24h")
    revoked = ["openssl", "crl", "-inform", "DER", "-noout", "-text"]
    listed = subprocess.run(revoked, input=base64.b64decode(crl), capture_output=True).stdout
    if f"{int(serial):X}".encode() not in listed:
        raise Unfit("its CRL does not tell what is revoked")


def main(cfssl, given, disabled):
    known = "of no version"
    try:
        known = version(cfssl)
        with tempfile.TemporaryDirectory() as folder:
            check(cfssl, Path(given), Path(folder), disabled)
    except Unfit as unfit:
        print(f"{known}: {unfit}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
