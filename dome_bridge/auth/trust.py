"""What the site trusts: CAs, their CRLs and the names that they may issue, and the servers of its VOs.

Read from directories that other programs change file by file (fetch-crl, packages) into an object that never
changes. A file that was good and cannot be read any more, perhaps because it is only half written, counts as
last read; a new one that cannot be read is left out, or, where leaving it out would allow more, counts
against its CA. Each trouble is logged when its file has changed, not at each poll.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dome_bridge.auth.certificate import UNREADABLE, Certificate, read_certificate
from dome_bridge.auth.crls import Crl, MissingCrls, RevocationLists, read_crl
from dome_bridge.auth.dn import DistinguishedName
from dome_bridge.auth.lsc import Chain, parse_lsc
from dome_bridge.auth.signing_policy import NOTHING, Policy, parse_namespaces, parse_signing_policy
from dome_bridge.auth.subject_hash import subject_hash
from dome_bridge.errors import BridgeError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

Content = Certificate | Crl | Policy | tuple[Chain, ...]


class TrustError(BridgeError):
    """The trust directory cannot be used; whatever was loaded before still can."""

    exit_code = 2


class _Stamp(NamedTuple):
    """Two of a file are equal as long as nobody has written it."""

    inode: int
    size: int
    modified: int
    changed: int


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """content: of the last time that it could be read. trouble: why it cannot be now."""

    stamp: _Stamp | None
    content: Content | None
    trouble: str


@dataclass(frozen=True, eq=False)
class Trust:
    """anchors: by subject. policies: by the CA's hash. voms_chains: LSC files, by VO and host in lower case.
    voms_certificates: of VOs that keep their servers' certificates. vos: for which anything is configured,
    be it good or not. generation: another for each content.
    """

    anchors: Mapping[x509.Name, tuple[Certificate, ...]]
    crls: RevocationLists = field(default_factory=RevocationLists)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    voms_chains: Mapping[tuple[str, str], tuple[Chain, ...]] = field(default_factory=dict)
    voms_certificates: Mapping[str, tuple[Certificate, ...]] = field(default_factory=dict)
    vos: frozenset[str] = frozenset()
    generation: int = 1
    _files: Mapping[Path, _File] = field(default_factory=dict, repr=False)

    def named(self, subject: x509.Name) -> tuple[Certificate, ...]:
        return self.anchors.get(subject, ())

    def is_anchor(self, certificate: Certificate) -> bool:
        return any(certificate.der == each.der for each in self.named(certificate.subject))

    def permits(self, issuer: Certificate, subject: DistinguishedName) -> bool:
        """Whether the files of this CA let it issue this name; a CA without any may issue all names."""
        policy = self.policies.get(subject_hash(issuer.subject))
        if policy is None:
            return True
        return policy.permits(DistinguishedName.from_x509(issuer.subject).slash, subject.slash)

    @property
    def next_updates(self) -> dict[str, float]:
        """When the newest CRL of each CA expires, in seconds since 1970, by the CA's name."""
        return {
            DistinguishedName.from_x509(issuer).slash: max(times)
            for issuer, crls in self.crls.by_issuer.items()
            if (times := [crl.next_update.timestamp() for crl in crls if crl.next_update])
        }


def load_trust(ca_dir: Path, vomsdir: Path, *, previous: Trust | None = None) -> Trust:
    """Blocks. Raises TrustError if there is no CA at all. Without a change it returns the previous object."""
    known = previous._files if previous else {}
    files = {path: _loaded(path, read, known.get(path)) for path, read in _found(ca_dir, vomsdir)}
    if previous and files.keys() == known.keys() and all(files[path] is known[path] for path in files):
        return previous
    anchors = _anchors(files)
    if not anchors:
        raise TrustError(f"no usable CA certificate (<hash>.0) in {ca_dir}: install the CAs' certificates")
    trust = Trust(
        anchors=anchors,
        crls=_revocation_lists(files, previous.crls.missing if previous else MissingCrls()),
        policies=_by_subject_hash(files, _policies(files)),
        voms_chains=_voms_chains(files),
        voms_certificates=_voms_certificates(files),
        vos=frozenset(path.parent.name for path in files if path.suffix in (_LSC, _PEM)),
        generation=previous.generation + 1 if previous else 1,
        _files=files,
    )
    _verify_ahead(trust, known)
    _tell(trust, previous)
    return trust


_LSC, _PEM = ".lsc", ".pem"
_NAMESPACES, _SIGNING_POLICY = ".namespaces", ".signing_policy"
_VO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_Reader = Callable[[bytes], Content]


def _certificate(data: bytes) -> Certificate:
    try:
        der = x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    except UNREADABLE as exc:
        raise ValueError("no certificate in PEM that can be read") from exc
    return read_certificate(der)


def _authority(data: bytes) -> Certificate:
    certificate = _certificate(data)
    if not certificate.is_authority:
        raise ValueError("it is not the certificate of a CA")
    return certificate


_CA_FILES: tuple[tuple[re.Pattern[str], _Reader], ...] = (
    (re.compile(r"[0-9a-f]{8}\.[0-9]+"), _authority),
    (re.compile(r"[0-9a-f]{8}\.r[0-9]+"), read_crl),
    (re.compile(r"[0-9a-f]{8}\.signing_policy"), lambda data: parse_signing_policy(_text(data))),
    (re.compile(r"[0-9a-f]{8}\.namespaces"), lambda data: parse_namespaces(_text(data))),
)
_VO_FILES: dict[str, _Reader] = {_LSC: lambda data: parse_lsc(_text(data)), _PEM: _certificate}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _found(ca_dir: Path, vomsdir: Path) -> Iterator[tuple[Path, _Reader]]:
    for path in _listed(ca_dir):
        for pattern, read in _CA_FILES:
            if pattern.fullmatch(path.name):
                yield path, read
    for directory in _listed(vomsdir) if vomsdir.exists() else ():
        if directory.is_dir() and _VO.fullmatch(directory.name):
            for path in _listed(directory):
                if path.suffix in _VO_FILES:
                    yield path, _VO_FILES[path.suffix]


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError as exc:
        raise TrustError(f"cannot read the directory {directory}: {exc.strerror}") from exc


def _loaded(path: Path, read: _Reader, known: _File | None) -> _File:
    """The known one if nobody has written it since; a file that is being written is read again next time."""
    stamp = _stamp(path)
    if known and known.stamp == stamp:
        return known
    try:
        return _File(stamp, read(path.read_bytes()), "")
    except (OSError, ValueError) as exc:
        trouble = " ".join(str(exc).split())
        last = known.content if known else None
        logger.warning(
            "%s cannot be used, %s: %s", path, "as last read it counts on" if last else "skipped", trouble
        )
        return _File(stamp, last, trouble)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Stamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


_Files = Mapping[Path, _File]


def _anchors(files: _Files) -> dict[x509.Name, tuple[Certificate, ...]]:
    """Each certificate once, under however many names of files."""
    found: dict[x509.Name, dict[bytes, Certificate]] = defaultdict(dict)
    for path, file in files.items():
        if isinstance(file.content, Certificate) and path.suffix != _PEM:
            found[file.content.subject][file.content.der] = file.content
    return {subject: tuple(same.values()) for subject, same in found.items()}


def _revocation_lists(files: _Files, missing: MissingCrls) -> RevocationLists:
    by_issuer: dict[x509.Name, list[Crl]] = defaultdict(list)
    broken: dict[str, str] = {}
    for path, file in files.items():
        if isinstance(file.content, Crl):
            by_issuer[file.content.issuer].append(file.content)
        elif path.suffix.startswith(".r"):
            broken[path.stem] = f"{path.name}: {file.trouble}"
    lists = {issuer: tuple(crls) for issuer, crls in by_issuer.items()}
    return RevocationLists(lists, _by_subject_hash(files, broken), missing)


def _policies(files: _Files) -> dict[str, Policy]:
    """By the hash in the file's name: the namespaces file if there is one, else the signing policy."""
    found: dict[str, Policy] = {}
    for suffix in (_SIGNING_POLICY, _NAMESPACES):
        for path, file in files.items():
            if path.suffix == suffix:
                found[path.stem] = file.content if isinstance(file.content, Policy) else NOTHING
    return found


def _by_subject_hash(files: _Files, by_stem: Mapping[str, _T]) -> dict[str, _T]:
    """Also under the hash that OpenSSL makes today, for CAs whose files are called otherwise."""
    found = dict(by_stem)
    for path, file in files.items():
        if isinstance(file.content, Certificate) and path.stem in by_stem:
            found.setdefault(subject_hash(file.content.subject), by_stem[path.stem])
    return found


def _voms_chains(files: _Files) -> dict[tuple[str, str], tuple[Chain, ...]]:
    return {
        (path.parent.name, path.stem.lower()): file.content
        for path, file in files.items()
        if path.suffix == _LSC and isinstance(file.content, tuple)
    }


def _voms_certificates(files: _Files) -> dict[str, tuple[Certificate, ...]]:
    found: dict[str, list[Certificate]] = defaultdict(list)
    for path, file in files.items():
        if path.suffix == _PEM and isinstance(file.content, Certificate):
            found[path.parent.name].append(file.content)
    return {vo: tuple(certificates) for vo, certificates in found.items()}


def _verify_ahead(trust: Trust, known: _Files) -> None:
    """Here and not in the middle of a request, for long lists take their time."""
    for path, file in trust._files.items():
        crl = file.content
        if isinstance(crl, Crl):
            signers = [each for each in trust.named(crl.issuer) if crl.is_signed_by(each)]
            if not signers and file is not known.get(path):
                logger.warning("%s is signed by no CA of this directory", path)


def _tell(trust: Trust, previous: Trust | None) -> None:
    counts = (len(trust.anchors), len(trust.crls.by_issuer), len(trust.policies), len(trust.vos))
    before = (
        (len(previous.anchors), len(previous.crls.by_issuer), len(previous.policies), len(previous.vos))
        if previous
        else (0, 0, 0, 0)
    )
    logger.info(
        "trust generation=%d cas=%d (%d) crls=%d (%d) policies=%d (%d) vos=%d (%d)",
        trust.generation,
        *(count for pair in zip(counts, before, strict=True) for count in pair),
    )
