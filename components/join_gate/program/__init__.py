"""The join gate: what nodes talk to on the certificate authority's host.

Runs on the platform's Python (3.9 or newer) with its `cryptography` package (36 or newer), and
imports nothing else, so that nothing has to come from a language registry.
"""
