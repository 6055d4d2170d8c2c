"""Scalar types of the configuration, each with an error that says what was found."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# A Kubernetes node name is a DNS subdomain (RFC 1123); one label of it keeps host names simple.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_PATTERN = f"^{_LABEL.pattern}$"
_ADDRESS_PATTERN = r"^[0-9a-fA-F:.]+$"
_QUALIFIED = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
# NodeRestriction and the kubelet itself let a node set only some labels of Kubernetes' domains.
_RESERVED = re.compile(r"(^|\.)(kubernetes|k8s)\.io$")
_ALLOWED = {
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
}
_ALLOWED_DOMAINS = {"kubelet.kubernetes.io", "node.kubernetes.io"}
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_HOST_KEY = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp\d+) [A-Za-z0-9+/]+={0,3}( \S.*)?")
# What ends so names the file that holds the key.
PUBLIC_KEY_FILE = ".pub"
_VERSION = re.compile(r"\d+\.\d+\.\d+")

_TAINT = re.compile(
    r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?(=([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?)?"
    r":(NoSchedule|PreferNoSchedule|NoExecute)"
)


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        try:
            right = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError("is no network; write one as 10.20.0.0/16") from error
        raise ValueError(f"has host bits set; write {right}") from error


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise ValueError("is no IP address; write one as 192.168.10.21") from error


def _addresses(value: object) -> tuple[str, ...]:
    """One address, or a list of them."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise ValueError("must be text or a list; write one as 192.168.10.21")
    found = []
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"must be text or a list of text, and has {text!r:.40}")
        try:
            found.append(_address(text))
        except ValueError as error:
            wrong = str(error)
            raise ValueError(
                wrong if text == value else f"has {text!r:.60}, which {wrong}"
            ) from None
    if not found:
        raise ValueError("must not be empty")
    if len(set(found)) < len(found):
        raise ValueError("names an address twice")
    return tuple(found)


def _node_addresses(value: object) -> tuple[str, ...]:
    found = _addresses(value)
    if len({ipaddress.ip_address(address).version for address in found}) < len(found):
        raise ValueError("has several addresses of one family; give one, or one of each")
    return found


def _host(value: str) -> str:
    if re.fullmatch(r"[0-9.]+|.*:.*", value):
        return _address(value)
    if not all(_LABEL.fullmatch(label) for label in value.lower().split(".")):
        raise ValueError("is neither an IP address nor a host name")
    return value.lower()


def _node_name(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError("is no node name; use at most 63 of a-z 0-9 -, no - at the ends")
    return value


def _worker_name(value: str) -> str:
    # X.520 bounds a common name to 64 characters, of which `system:node:` takes 12.
    if len(_node_name(value)) > 52:
        raise ValueError("is too long for a node's certificate; use at most 52 characters")
    return value


def _cluster_name(value: str) -> str:
    if len(value) > 32 or not _LABEL.fullmatch(value):
        raise ValueError("is no cluster name; use at most 32 of a-z 0-9 -, no - at the ends")
    return value


def _https(value: str) -> str:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = -1
    plain = not (parts.query or parts.fragment or parts.username or parts.path.strip("/"))
    if parts.scheme != "https" or not parts.hostname or port == -1 or not plain:
        raise ValueError("is no API server; write it as https://192.168.10.5:6443")
    return value.rstrip("/")


def _mac(value: str) -> str:
    if not _MAC.fullmatch(value.lower()):
        raise ValueError("is no MAC address; write it as a0:36:9f:00:00:41")
    return value.lower()


def _host_key(value: str) -> str:
    if value.endswith(PUBLIC_KEY_FILE):
        return value
    if value.strip().startswith("ssh-rsa "):
        raise ValueError(
            "is an RSA key, which Pulumi's command plugin takes with SHA-1 signatures alone, and "
            "sshd has refused those since OpenSSH 8.8; take the line that "
            "`ssh-keyscan -t ed25519 HOST` prints, without the host"
        )
    if not _HOST_KEY.fullmatch(value.strip()):
        raise ValueError(
            "is no SSH host key; take the line that `ssh-keyscan -t ed25519 HOST` prints, "
            "without the host"
        )
    return " ".join(value.split()[:2])


def _version(value: str) -> str:
    if not _VERSION.fullmatch(value):
        raise ValueError('is no version; write it as "1.34.2", in quotes')
    return value


def _taint(value: str) -> str:
    if not _TAINT.fullmatch(value):
        raise ValueError("is no taint; write it as dedicated=storage:NoSchedule")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or re.search(r"[\x00-\x1f]", value):
        raise ValueError("is no absolute path")
    return value


def _cfssl(value: str) -> str:
    if value not in ("auto", "shipped") and not re.match(r"/[^\x00-\x1f]*\Z", value):
        raise ValueError("is neither auto nor shipped nor an absolute path")
    return value


def _country(value: str) -> str:
    if not re.fullmatch("[A-Z]{2}", value):
        raise ValueError("is no country code; write two capital letters, as SE")
    return value


def _subject_text(value: str) -> str:
    # X.520 bounds these fields to 64 characters.
    if not 1 <= len(value) <= 64 or not value.isprintable():
        raise ValueError("cannot stand in a certificate; use 1 to 64 printable characters")
    return value


def _label_key(value: str) -> str:
    """A qualified name: an optional DNS subdomain and `/`, then at most 63 characters."""
    prefix, slash, name = value.rpartition("/")
    labels = prefix.split(".")
    if slash and (len(prefix) > 253 or not all(_LABEL.fullmatch(label) for label in labels)):
        raise ValueError("has no DNS name before its /; write it as example.com/rack")
    if not _QUALIFIED.fullmatch(name) or len(name) > 63:
        raise ValueError("is no label key; use at most 63 of a-z A-Z 0-9 - _ .")
    if _RESERVED.search(prefix) and value not in _ALLOWED and prefix not in _ALLOWED_DOMAINS:
        raise ValueError("is in a domain of Kubernetes, which no node may set on itself")
    return value


def _label_value(value: str) -> str:
    if value and (not _QUALIFIED.fullmatch(value) or len(value) > 63):
        raise ValueError("is no label value; use at most 63 of a-z A-Z 0-9 - _ .")
    return value


def _size(value: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[MGT]", value):
        raise ValueError('is no size; write it as "4G", with M, G or T')
    return value


def _link(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.]{0,30}", value):
        raise ValueError("is no name of a link; use letters, digits, _ and .")
    return value


def _dataset(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z][\w.:-]*(/[\w.:-]+)*", value):
        raise ValueError("is no ZFS dataset; write it as rpool/zones")
    return value


def _http_url(value: str, unsafe: str, wrong: str) -> str:
    """A URL without a slash at its end; `wrong` where it is none or holds what `unsafe` matches."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    plain = not re.search(unsafe, value) and not parts.username
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or port == 0:
        raise ValueError(wrong)
    return value.rstrip("/")


def _seed_url(value: str) -> str:
    wrong = "is no URL of a folder; write it as http://192.168.10.4/autojoin/"
    return _http_url(value, r"[\s;\"'$#?&\\]", wrong) + "/"


def _suite(value: str) -> str:
    words = value.split(" ")
    right = all(re.fullmatch(r"[A-Za-z0-9._:~+/-]+", word) for word in words)
    if not right or words[0].endswith("/") == (len(words) > 1):
        raise ValueError("is no suite of an apt repository; write it as / or as bookworm main")
    return value


def _signing_key(value: str) -> str:
    """A fingerprint in capitals; or the key itself, or its file, as they are."""
    digits = value.replace(" ", "").removeprefix("0x").upper()
    if not re.fullmatch("[0-9A-F]+", digits):
        return value
    if len(digits) != 40:
        raise ValueError("is no fingerprint; write all 40 hexadecimal digits of it")
    return digits


def _public_key_pin(value: str) -> str:
    if not re.fullmatch(r"sha256//[A-Za-z0-9+/]{43}=", value):
        raise ValueError("is no pin of a public key; write it as sha256//… with 44 characters")
    return value


def _disk(value: str) -> str:
    if not re.fullmatch(r"/dev/[A-Za-z0-9_./:+-]+", value) or "/../" in value:
        raise ValueError("is no disk; write it as /dev/nvme0n1 or /dev/disk/by-id/…")
    return value


def _registry_name(value: str) -> str:
    """A registry as it stands in an image's name: a host, maybe with a port; or `default`."""
    host, _, port = value.partition(":")
    if value != "default" and (
        not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host)
        or (port and not re.fullmatch(r"[1-9]\d{0,4}", port))
        or value.endswith(":")
    ):
        raise ValueError("is no registry; write it as quay.io, or default for all others")
    return value


def _registry_url(value: str) -> str:
    wrong = "is no URL of a registry; write it as https://192.168.10.4:5000"
    return _http_url(value, r"[\s\"'\\?#]", wrong)


def _zone(value: str) -> str:
    plain = value.rstrip(".").lower()
    if not all(
        re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", it) for it in plain.split(".")
    ):
        raise ValueError("is no zone; write it as home.arpa")
    return plain


def _image(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._:/-]*:[\w][\w.-]{0,127}(@sha256:[0-9a-f]{64})?", value):
        raise ValueError("is no image; write it with its tag, as registry.k8s.io/pause:3.10.1")
    return value


# For each check a maker of right values without a meaning, from a number; see stack/stand_in.py.
STAND_INS: dict[object, Callable[[int], str]] = {}


def _texts(check: Callable[[object], tuple[str, ...]]) -> BeforeValidator:
    """One address or several of them, all under one key: what is wrong is told once."""
    validator = BeforeValidator(check)
    STAND_INS[validator] = _number_address
    return validator


def _text(check: Callable[[str], str], stand_in: Callable[[int], str]) -> AfterValidator:
    """Text that passes `check`, of which `stand_in` makes as many different ones as there are."""
    validator = AfterValidator(check)
    STAND_INS[validator] = stand_in
    return validator


def _pattern(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


def _one_or_several(most: int | None = None) -> WithJsonSchema:
    item = {"type": "string", "pattern": _ADDRESS_PATTERN}
    bounds = {"minItems": 1} | ({"maxItems": most} if most else {})
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, **bounds}]})


def _number_name(number: int) -> str:
    return f"stand-in-{number}"


def _number_address(number: int) -> str:
    return str(ipaddress.ip_address((11 << 24) + number))


def _number_network(number: int) -> str:
    return f"{ipaddress.ip_address((22 << 24) + (number << 4) % (1 << 24))}/28"


def _number_mac(number: int) -> str:
    return ":".join(f"{byte:02x}" for byte in (0x02_FE_00_00_00_00 + number).to_bytes(6))


# The patterns are for editors (stack/schema.py); the checks above decide.
NetworkText = Annotated[
    str, _text(_network, _number_network), _pattern(r"^[0-9a-fA-F:.]+(/[0-9]+)?$")
]
AddressText = Annotated[str, _text(_address, _number_address), _pattern(_ADDRESS_PATTERN)]
Addresses = Annotated[tuple[str, ...], _texts(_addresses), _one_or_several()]
# A node's own: the first is the one that its Node object names first.
NodeAddresses = Annotated[tuple[str, ...], _texts(_node_addresses), _one_or_several(2)]
HostText = Annotated[str, _text(_host, _number_address)]
NodeName = Annotated[str, _text(_node_name, _number_name), _pattern(_LABEL_PATTERN)]
WorkerName = Annotated[str, _text(_worker_name, _number_name), _pattern(_LABEL_PATTERN)]
ClusterName = Annotated[str, _text(_cluster_name, _number_name), _pattern(_LABEL_PATTERN)]
HttpsUrl = Annotated[
    str, _text(_https, lambda number: f"https://{_number_address(number)}"), _pattern("^https://")
]
MacAddress = Annotated[
    str, _text(_mac, _number_mac), _pattern("^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$")
]
HostKey = Annotated[
    str,
    _text(_host_key, lambda number: f"ssh-ed25519 {number:064d}"),
    _pattern(rf"^(ssh-ed25519|ecdsa-sha2-)|\{PUBLIC_KEY_FILE}$"),
]
Version = Annotated[
    str, _text(_version, lambda number: f"{number}.0.0"), _pattern(r"^\d+\.\d+\.\d+$")
]
CountryCode = Annotated[
    str,
    _text(_country, lambda number: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number // 26 % 26] + "X"),
    _pattern("^[A-Z]{2}$"),
]
SubjectText = Annotated[str, _text(_subject_text, _number_name)]
AbsolutePath = Annotated[
    str, _text(_absolute, lambda number: f"/stand-in/{number}"), _pattern("^/")
]
CfsslChoice = Annotated[str, _text(_cfssl, lambda _: "auto"), _pattern("^(auto$|shipped$|/)")]
Taint = Annotated[str, _text(_taint, lambda number: f"stand-in-{number}:NoSchedule")]
LabelKey = Annotated[str, _text(_label_key, _number_name)]
LabelValue = Annotated[str, _text(_label_value, _number_name)]
Size = Annotated[str, _text(_size, lambda number: f"{number + 1}M")]
LinkName = Annotated[str, _text(_link, lambda number: f"standin{number}")]
ZfsDataset = Annotated[str, _text(_dataset, lambda number: f"rpool/stand-in-{number}")]
SeedUrl = Annotated[str, _text(_seed_url, lambda number: f"http://{_number_address(number)}/")]
DiskPath = Annotated[str, _text(_disk, lambda number: f"/dev/stand-in-{number}")]
Suite = Annotated[str, _text(_suite, lambda number: f"stand-in-{number}/")]
SigningKey = Annotated[str, _text(_signing_key, lambda number: f"{number:040d}")]
PublicKeyPin = Annotated[str, _text(_public_key_pin, lambda number: f"sha256//{number:043d}=")]
RegistryName = Annotated[str, _text(_registry_name, lambda number: f"stand-in-{number}.test")]
RegistryUrl = Annotated[
    str, _text(_registry_url, lambda number: f"https://{_number_address(number)}")
]
ImageText = Annotated[str, _text(_image, lambda number: f"stand-in:{number}")]
ZoneName = Annotated[str, _text(_zone, lambda number: f"stand-in-{number}.test")]
