"""Every kind of router that its side can be rendered for."""

from __future__ import annotations

from components.bgp.routers import bird, frr, gobgp, openbgpd

KINDS = (frr, bird, openbgpd, gobgp)
