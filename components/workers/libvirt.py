"""The document of which libvirt makes a guest (libvirt.org/formatdomain)."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

# Where guest.sh puts its disk and a copy of its seed: QEMU's user may read nothing of the nodes'.
DISKS = "/var/lib/libvirt/images"


def domain(node: str, cpus: int, memory: str, bridge: str, mac: str) -> str:
    """Its firmware is UEFI, disk and card are virtio's, and its seed is a disc.

    `memory` is a number with M, G or T behind it. guest.sh has the processor emulated where
    there is no KVM.
    """
    root = Element("domain", type="kvm")
    SubElement(root, "name").text = node
    SubElement(root, "memory", unit=f"{memory[-1]}iB").text = memory[:-1]
    SubElement(root, "vcpu").text = str(cpus)
    system = SubElement(root, "os", firmware="efi")
    SubElement(system, "type", machine="q35").text = "hvm"
    # Not every image is signed, and none of bhyve's guests has to be.
    SubElement(SubElement(system, "firmware"), "feature", enabled="no", name="secure-boot")
    SubElement(SubElement(root, "features"), "acpi")
    processor = SubElement(root, "cpu", mode="maximum")
    # A page table of five levels and guests of its own only cost an emulated one time.
    for feature in ("la57", "svm"):
        SubElement(processor, "feature", policy="disable", name=feature)
    devices = SubElement(root, "devices")
    _disk(devices, f"{DISKS}/{node}.qcow2", "qcow2", "vda")
    # As the root is: a guest that finds that one finds its seed.
    SubElement(_disk(devices, f"{DISKS}/{node}-seed.iso", "raw", "vdb"), "readonly")
    card = SubElement(devices, "interface", type="bridge")
    SubElement(card, "source", bridge=bridge)
    SubElement(card, "mac", address=mac)
    SubElement(card, "model", type="virtio")
    SubElement(devices, "serial", type="pty")
    random = SubElement(devices, "rng", model="virtio")
    SubElement(random, "backend", model="random").text = "/dev/urandom"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _disk(devices: Element, path: str, form: str, name: str) -> Element:
    disk = SubElement(devices, "disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type=form)
    SubElement(disk, "source", file=path)
    SubElement(disk, "target", dev=name, bus="virtio")
    return disk
