"""SMF manifests, as illumos' service_bundle.dtd.1 orders their elements."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ElementTree

from components.certificate_authority.platforms.base import Service

_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE service_bundle SYSTEM "/usr/share/lib/xml/dtd/service_bundle.dtd.1">
"""
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# What any process has, less what no daemon of ours needs: links to files that it can't write,
# looking at others' processes, signals to other sessions.
_PRIVILEGES = "basic,!file_link_any,!proc_info,!proc_session"
_MILESTONES = {
    "network": "svc:/milestone/network:default",
    "filesystem-local": "svc:/system/filesystem/local:default",
}


def name(service: str) -> str:
    """The service's name; with :default behind it, its instance's."""
    return f"application/autojoin/{service}"


def manifest(service: Service) -> str:
    """The manifest of a service that stays in the foreground.

    `duration=child`: the start method is the daemon itself, which startd restarts when it ends.
    `:kill` ends the processes of the service's own contract and no other.
    """
    bundle = ElementTree.Element("service_bundle", type="manifest", name=f"autojoin:{service.name}")
    root = ElementTree.SubElement(
        bundle, "service", name=name(service.name), type="service", version="1"
    )
    # The installer enables it, once everything is in place.
    ElementTree.SubElement(root, "create_default_instance", enabled="false")
    ElementTree.SubElement(root, "single_instance")
    for label, fmri in _MILESTONES.items():
        _dependency(root, label, "require_all", "error", fmri)
    for other in service.after:
        _dependency(root, other, "optional_all", "none", f"svc:/{name(other)}:default")
    context = ElementTree.SubElement(root, "method_context", working_directory=service.state)
    ElementTree.SubElement(
        context,
        "method_credential",
        user=service.user,
        group=service.user,
        privileges=_PRIVILEGES,
        limit_privileges=_PRIVILEGES,
    )
    _method(root, "start", shlex.join(service.command), 60)
    _method(root, "stop", ":kill", service.stop_seconds)
    startd = ElementTree.SubElement(root, "property_group", name="startd", type="framework")
    for key, value in (("duration", "child"), ("ignore_error", "core,signal")):
        ElementTree.SubElement(startd, "propval", name=key, type="astring", value=value)
    ElementTree.SubElement(root, "stability", value="Unstable")
    title = ElementTree.SubElement(ElementTree.SubElement(root, "template"), "common_name")
    ElementTree.SubElement(title, "loctext", {_LANGUAGE: "C"}).text = service.description
    ElementTree.indent(bundle)
    return _HEAD + ElementTree.tostring(bundle, encoding="unicode") + "\n"


def _dependency(
    root: ElementTree.Element, label: str, grouping: str, restart_on: str, fmri: str
) -> None:
    dependency = ElementTree.SubElement(
        root, "dependency", name=label, grouping=grouping, restart_on=restart_on, type="service"
    )
    ElementTree.SubElement(dependency, "service_fmri", value=fmri)


def _method(root: ElementTree.Element, label: str, command: str, seconds: int) -> None:
    ElementTree.SubElement(
        root,
        "exec_method",
        name=label,
        type="method",
        exec=command,
        timeout_seconds=str(seconds),
    )
