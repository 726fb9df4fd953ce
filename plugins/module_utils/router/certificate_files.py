# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificates of an edge: read from files of the host, joined with their keys, and the time until they expire."""

from __future__ import annotations

import base64
import datetime
import os
import re
import stat
from dataclasses import dataclass
from typing import List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem

# A certificate with its chain and key is a few KiB.
MOST_BYTES = 1024 * 1024
# Days before the end of a certificate from which on a warning is given.
WARN_DAYS = 30
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----.+?-----END (?:[A-Z]+ )?PRIVATE KEY-----", re.DOTALL)
RENEWED = "after a renewal: ansible-playbook playbooks/router_reload.yml -e only=edge"


@dataclass(frozen=True)
class Certificate:
    """A certificate as the edge loads it. text: PEM of certificate, chain and key. expires: seconds since 1970; None: unknown."""

    source: str
    text: str
    expires: Optional[float]
    warnings: Tuple[str, ...] = ()


def read_certificate(certificate: str, key: str) -> Certificate:
    """Read the files. key: empty if the certificate's file holds the key too. Raises AnvilError with every problem."""
    problems: List[Problem] = []
    texts = [_read_pem(path, problems) for path in ((certificate, key) if key else (certificate,))]
    if problems:
        raise AnvilError(*problems)
    text = "\n".join(each.strip() for each in texts) + "\n"
    if not CERTIFICATE.search(texts[0]):
        problems.append(Problem("the file holds no certificate", certificate, hint="write the path of a PEM file"))
    keys = PRIVATE_KEY.findall(text)
    if len(keys) != 1:
        what = "there is no private key" if not keys else "there are {0} private keys".format(len(keys))
        hint = "write the file of its key beside the certificate: tls: {certificate: …, key: …}"
        problems.append(Problem(what, key or certificate, hint=hint))
    elif "ENCRYPTED" in keys[0]:
        hint = "decrypt it: openssl pkey -in {0} -out FILE; chmod 600 FILE".format(key or certificate)
        problems.append(Problem("the private key is encrypted, and the edge has no passphrase", key or certificate, hint=hint))
    if problems:
        raise AnvilError(*problems)
    return Certificate(certificate, text, read_expiry(text), tuple(_warn_readable(key or certificate)))


def _read_pem(path: str, problems: List[Problem]) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError("it is not a regular file")
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise OSError("it is larger than 1 MiB")
        return content.decode("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        why = "it is no PEM file" if isinstance(exc, UnicodeDecodeError) else str(exc)
        problems.append(Problem("a file of the edge's certificate cannot be read", path, why, "it is a PEM file on the host"))
    return ""


def _warn_readable(path: str) -> List[str]:
    if os.stat(path).st_mode & 0o077:
        return ["{0}: other users can read this private key; type: chmod 600 {0}".format(path)]
    return []


def read_expiry(pem: str) -> Optional[float]:
    """When the first certificate in PEM text expires (seconds since 1970); None if that cannot be read."""
    found = CERTIFICATE.search(pem)
    try:
        return _read_not_after(base64.b64decode(found[1])) if found else None
    except (ValueError, IndexError):
        return None


def _read_not_after(der: bytes) -> float:
    """The time ``notAfter`` of a certificate in DER (RFC 5280, section 4.1)."""
    certificate = _open(der, 0)[0]
    body = _open(certificate, 0)[0]
    at = 0
    fields: List[bytes] = []
    while len(fields) < 5:
        content, after = _open(body, at)
        if not (at == 0 and body[0] == 0xA0):  # the version is optional
            fields.append(content)
        at = after
    validity = fields[3]  # after serial number, signature and issuer
    begin = _open(validity, 0)[1]
    text = _open(validity, begin)[0].decode("ascii")
    if validity[begin] == 0x17:  # UTCTime has two digits for the year: 50 to 99 are 19xx
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    moment = datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ")
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


def _open(data: bytes, at: int) -> Tuple[bytes, int]:
    """The content of the DER element at this offset, and the offset after it."""
    size, start = data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    if start + size > len(data):
        raise ValueError("the element is cut off")
    return data[start : start + size], start + size


def describe_expiry(source: str, expires: Optional[float], now: float) -> Tuple[str, str]:
    """The day on which a certificate expires, and a warning from ``WARN_DAYS`` before on; both empty where it is unknown."""
    if expires is None:
        return "", ""
    day = datetime.datetime.fromtimestamp(expires, datetime.timezone.utc).strftime("%Y-%m-%d")
    days = int((expires - now) // 86400)
    if days >= WARN_DAYS:
        return day, ""
    told = "expired on {0}".format(day) if expires <= now else "expires on {0}, in {1} days".format(day, days)
    return day, "the certificate of the edge {0}: {1}; {2}".format(told, source, RENEWED)
