"""What runs on the CA's host: each platform's services and jobs, and CFSSL's configuration."""

from __future__ import annotations

import pytest

from components.certificate_authority import installation as certificate_authority
from components.certificate_authority.authority_host import AuthorityHost
from components.certificate_authority.platforms import PLATFORMS
from components.join_gate import installation as join_gate
from tests.golden.conftest import Golden

SCRIPTS = (".sh", ".py", ".env", ".sql")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_services_and_settings_of_each_platform(platform: str, golden: Golden) -> None:
    host = AuthorityHost(
        platform=platform,
        address="192.168.10.2",
        source="generate",
        certificate="",
        key="",
        subject={"country": "SE", "locality": "Stockholm"},
        node_certificate_hours=8760,
    )
    files = {**certificate_authority.files(host), **join_gate.files(host)}
    for name, file in files.items():
        if name != "gate" and not name.endswith(SCRIPTS):
            golden(f"ca-{platform}/{name}", file.content.decode())
