"""What is on the CA host, as one JSON object; run there by `python3 -`."""

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

PROGRAMS = Path("/usr/local/lib/autojoin")
CONFIGURATION = Path("/etc/autojoin")
UNITS = Path("/etc/systemd/system")


def rows(database: str, query: str) -> list[list[Any]]:
    """Rows of an SQLite file that others write to."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
    try:
        return [[_text(cell) for cell in row] for row in connection.execute(query)]
    finally:
        connection.close()


def _text(cell: Any) -> Any:
    return cell.decode() if isinstance(cell, bytes) else cell


def main() -> None:
    (file,) = CONFIGURATION.rglob("gate.json")
    settings = json.loads(file.read_text())
    source = json.loads(Path(settings["certificateDatabase"]).read_text())["data_source"]
    certdb = source.removeprefix("file:").partition("?")[0]

    def gate(command: str) -> Any:
        words = [str(PROGRAMS / "gate"), "--settings", str(file), command]
        answer = subprocess.run(words, capture_output=True, text=True, check=True)
        return json.loads(answer.stdout)

    folders = (PROGRAMS, CONFIGURATION, UNITS)
    found = {
        "nodes": {node["node"]: node for node in gate("status")["nodes"]},
        "revoked": {it["sha256"]: it["node"] for it in gate("revoked")["revoked"]},
        "issued": rows(
            settings["database"], "SELECT serial, node, identity, revoke FROM certificates"
        ),
        "certificates": rows(certdb, "SELECT serial_number, common_name, status FROM certificates"),
        "files": sorted(
            str(path) for folder in folders for path in folder.rglob("*") if not path.is_dir()
        ),
    }
    print(json.dumps(found))


main()
