"""Where somebody is on a network: IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from collector.redaction.edge import WORD
from collector.redaction.rule import Rule, Span
from collector.redaction.validator import is_digit, is_word

# Short words must stand alone or begin with a capital: ``server`` ends as ``ver`` does.
_VERSION = re.compile(
    rb"(?:version|release|revision|build|firmware|kernel|driver|section|chapter|clause"
    rb"|(?:(?<![a-z])|(?-i:(?<=[a-z])(?=[A-Z])))(?:ver|rel|rev|sdk|v))[\"'\s:=_.#-]*$",
    re.IGNORECASE,
)
_COMPARED = re.compile(rb"[=~<>!]=\s*[\"']?$")
_CENTS = re.compile(rb",[0-9]{1,2}(?![0-9.,])")
_PACKAGE_LEFT = re.compile(rb"[A-Za-z][-_]$")
_PACKAGE_RIGHT = re.compile(rb"\.(?:tar|tgz|zip|whl|jar|gz|deb|rpm|exe|dll|so|dmg|pkg|msi)\b|[-+][A-Za-z]")
_ADDRESS = re.compile(
    rb"(?<![a-z])(?:ip|ipv4|host|from|client|server|peer|remote|addr|address|ping|ssh|dns|proxy|gateway|src|dst)(?![a-z])"
)


_DEVICE = re.compile(
    rb"(?<![a-z])(?:mac|hwaddr|bssid|ether|ethernet|wifi|wlan|bluetooth|device|arp|link)(?![a-z])"
)


def _ipv4(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept four numbers up to 255 that are neither part of a version number nor the machine itself."""
    if is_word(text, start - 1) or is_word(text, end):
        return
    if text[start - 1 : start] == b"." and is_digit(text, start - 2):
        return
    # A comma ends a field of a table; only before one or two last digits it is that of 1.234.123.200,50.
    if (text[end : end + 1] == b"." and is_digit(text, end + 1)) or _CENTS.match(text, end):
        return
    octets = [int(octet) for octet in text[start:end].split(b".")]
    if max(octets) > 255 or octets[0] == 127 or set(octets) in ({0}, {255}):
        return
    before = text[max(0, start - 16) : start]
    around = text[max(0, start - 24) : start].lower() + b" " + hint.lower().encode("utf-8", "replace")
    addressed = _ADDRESS.search(around) is not None
    # Not in ``before``: what stands before a short word decides too.
    if "version" in hint.lower() or _VERSION.search(text, max(0, start - 16), start):
        return
    # package==1.2.3.4 is a version, ip.addr == 10.20.30.40 is none.
    if not addressed and _COMPARED.search(before):
        return
    if _PACKAGE_LEFT.search(before) and _PACKAGE_RIGHT.match(text, end, end + 8):
        return
    # 1.2.3.4 is a version, a paragraph or an address. Four digits hide nobody's address: fewer than one address in
    # 400,000 looks like that, and most of those are public resolvers. A word that says "address" decides.
    if max(octets) < 10 and not addressed and text[end : end + 1] != b":":
        return
    yield start, end


def _ipv6(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept what :mod:`ipaddress` reads, unless it looks like a time, a scope in code, or a list of bytes."""
    while end > start and text[end - 1] in b":." and text[end - 2 : end] != b"::":
        end -= 1
    if text[start : start + 1] == b":" and text[start : start + 2] != b"::":
        start += 1
    if (
        is_word(text, start - 1)
        or is_word(text, end)
        or b"_" in (text[start - 1 : start], text[end : end + 1])
    ):
        return
    written = text[start:end].decode("ascii")
    try:
        address = ipaddress.IPv6Address(written)
    except ValueError:
        return
    groups = [group for group in written.split(":") if group]
    if address.is_loopback or address.is_unspecified or not any(c.isdigit() for c in written):
        return
    if len(groups) < 3 and (len(groups[0]) < 3 or (written[:2] == "::" and written.count(":") == 2)):
        return
    if len(groups) == 8 and all(len(group) == 2 for group in groups):
        return
    yield start, end


def _mac(text: bytes, start: int, end: int, hint: str) -> Iterator[Span]:
    """Accept the address of one device: neither a group's, nor all equal, nor a time; a made-up one only with a word."""
    separator = text[start + 2 : start + 3]
    for index in (start - 1, end):
        if is_word(text, index) or text[max(0, index) : index + 1] == separator:
            return
    octets = bytes.fromhex(text[start:end].replace(separator, b"").decode("ascii"))
    if len(octets) != 6 or len(set(octets)) == 1 or octets[0] & 1:
        return
    written = text[start:end].lower()
    if octets[0] & 2 or not any(0x61 <= byte <= 0x66 for byte in written):
        around = text[max(0, start - 32) : start].lower() + b" " + hint.lower().encode("utf-8", "replace")
        if not _DEVICE.search(around):
            return
    yield start, end


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


RULES = (
    Rule(
        name="IPV4",
        gate=rf"{WORD}[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]",
        gate_core=r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        pattern=r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}",
        check=_ipv4,
        canonical=_address,
        must_match=(
            "203.0.113.77",
            "from 10.20.30.40:8080",
            "[198.51.100.23]",
            "client ip 1.2.3.4",
            "http://192.168.0.12/x",
            "server: 203.0.113.77",
            "ip.addr == 203.0.113.77",
        ),
        must_not_match=(
            "version 10.20.30.40",
            "1.2.3.4",
            "v203.0.113.77",
            "appVer: 10.20.30.40",
            "opencv-python==4.9.0.80",
            "300.1.2.3",
            "1.3.6.1.4.1.311",
            "127.0.0.1",
        ),
    ),
    Rule(
        name="IPV6",
        gate=(
            rf"{WORD}(?:[0-9A-Fa-f]{{1,4}}(?::[0-9A-Fa-f]{{1,4}}){{0,6}}::|::[0-9A-Fa-f]{{1,4}}:|(?:[0-9A-Fa-f]{{1,4}}:){{6}}[0-9A-Fa-f])"
        ),
        gate_core=r"[0-9A-Fa-f]::|::[0-9A-Fa-f]|:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:",
        pattern=r"[0-9A-Fa-f:]*:[0-9A-Fa-f]{0,4}:(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:]*)",
        check=_ipv6,
        canonical=_address,
        must_match=(
            "2001:db8:85a3::8a2e:370:7334",
            "[fe80::1ff:fe23:4567:890a]",
            "peer 2001:0db8:0000:0000:0000:ff00:0042:8329.",
            "::ffff:203.0.113.77",
        ),
        must_not_match=(
            "12:34:56",
            "std::vector",
            "a::b",
            "x[1::2]",
            "::1",
            "aa:bb:cc:dd:ee:ff:00:11",
            "dead::beef",
        ),
    ),
    Rule(
        name="MAC_ADDRESS",
        gate=rf"{WORD}[0-9A-Fa-f]{{2}}(?:(?::[0-9A-Fa-f]{{2}}){{5}}|(?:-[0-9A-Fa-f]{{2}}){{5}})",
        gate_core=r":[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}:|-[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-",
        pattern=r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}",
        check=_mac,
        canonical=lambda text: text.replace("-", ":").lower(),
        must_match=(
            "00:1a:2b:3c:4d:5e",
            "mac address 02:42:ac:11:00:02",
            "ether 3C-22-FB-10-20-30,",
            "hwaddr=12:34:56:78:90:12",
        ),
        must_not_match=(
            "aa:bb:cc:dd:ee:ff:00:11",
            "20:24:08:06:12:30",
            "ff:ff:ff:ff:ff:ff",
            "02:42:ac:11:00:02",
            "01:00:5e:7f:ff:fa",
        ),
    ),
)
