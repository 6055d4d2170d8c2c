"""A short, bounded run of the fuzzer; `make test FUZZ=600` for a longer one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fuzz import gate
from tools.pins import CHECKOUT

SECONDS = int(os.environ.get("AUTOJOIN_FUZZ_SECONDS") or 8)


def test_the_request_path_takes_whatever_comes(tmp_path: Path) -> None:
    """No exception but a refusal; nothing passes with another identity than the registered one."""
    corpus = tmp_path / "corpus"
    shutil.copytree(gate.CORPUS, corpus)  # libFuzzer adds to it
    command = [sys.executable, "-m", "tests.fuzz.gate"]
    command += [f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/", str(corpus)]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    if gate.GUIDED:
        assert "DONE" in run.stderr
    else:
        assert f"{len(list(gate.CORPUS.iterdir()))} inputs" in run.stdout


def test_the_corpus_is_small_and_holds_no_finding() -> None:
    files = sorted(gate.CORPUS.iterdir())
    assert 5 <= len(files) <= 40
    assert sum(file.stat().st_size for file in files) < 64 * 1024
    for file in files:
        gate.one_input(file.read_bytes())
