"""Every kind of router that its side can be rendered for."""

from __future__ import annotations

from render.router import bird, frr, gobgp, openbgpd

KINDS = (frr, bird, openbgpd, gobgp)
