"""What the numbers mean that stand in audit lines and in what `dome-bridge auth explain` prints.

Each is a rule that decides about a request, or one by which the server works; tests carry the same numbers.
`python -m dome_bridge.auth.rules` prints the tables of docs/reference/auth-rules.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import chain

GROUPS: Mapping[str, Mapping[str, str]] = {
    "TLS": {
        "TLS1": "One port serves clients with a certificate, with a token and with neither.",
        "TLS2": "TLS 1.2 and 1.3 with OpenSSL's security level 2: no short keys, no SHA-1, no MD5.",
        "TLS3": "No session is resumed, since the chain of a resumed one is not known.",
        "TLS4": "A connection is never renegotiated.",
        "TLS5": "A failed handshake is logged with the peer and what OpenSSL had against it.",
        "TLS6": "First byte and handshake must come in time, and only so many handshakes go on at once.",
        "TLS7": "Proxies are allowed in the handshake; OpenSSL's strict mode, which refuses them, is off.",
        "TLS8": "The chain is read once a connection, just as the client sent it.",
        "TLS9": "A certificate that OpenSSL refuses ends the connection, whatever token would have followed.",
        "TLS10": "The bridge's own connections verify chain and host name of the other side, always.",
        "TLS11": "The host key is closed to group and others, and no list of CAs is sent to clients.",
    },
    "Requests signed by XrdHttp": {
        "K1": "A good signature proves the DN of a server; that of anybody else opens nothing.",
        "K2": "Every request is checked in full: signature, method, path, parameters, and its time.",
        "K3": "A signed DN counts for a host only if it has exactly one CN, which is the host's name.",
        "K4": "The secret has at least 32 characters and is closed to others; an older one may count, too.",
        "K5": "On plain HTTP nothing but the signature counts, and a token sent there is refused unread.",
        "K6": "Plain HTTP is taken only from disk servers, this host and the networks that are configured.",
        "K7": "The head signs each of its own requests anew, with its DN and its host.",
    },
    "Behind a web server": {
        "Y1": "A proxied listener is reached from this machine only.",
        "Y2": "The web server's identity headers come once each, and count only after a good verification.",
        "Y3": "With its certificate a client is checked in full; a subject alone is taken to the letter.",
        "Y4": "The client's address is the one that the web server appended last.",
        "Y5": "Tokens are taken behind the web server, which ends TLS.",
    },
    "How a token is sent, and what is answered": {
        "H1": "The header holds the word Bearer, one blank and a token of the characters that tokens have.",
        "H2": "In the query only the parameter `authz` holds a token.",
        "H3": "More than one token in a request is an error.",
        "H4": "A token is taken over TLS or behind the web server only, and is never written anywhere.",
        "H5": "The answer tells a missing, a bad and an insufficient token apart, and nothing more.",
        "H6": "Who calls is settled before it is looked at what is called.",
        "H7": "Everybody may ask `dome_info` whether he is let in; it repeats nothing that was sent.",
        "H8": "The command is the end of the request's path as it was sent; odd paths are refused.",
        "H9": "While the keys of a trusted issuer are missing its tokens are answered with 503.",
    },
    "What a token must be": {
        "T1": "A token is valid if it passes all of these checks, and only then.",
        "T2": "Its issuer is one of those configured, to the letter.",
        "T3": "It is three segments of base64url with JSON objects that have no doubled members.",
        "T4": "Its header has no extension and no type that is not understood.",
        "T5": "Its signature is made with an admitted algorithm; `none` and shared secrets never are.",
        "T6": "Of an issuer's keys only sound ones for signatures are loaded.",
        "T7": "Its key is found by `kid` among its issuer's own, and no other is tried.",
        "T8": "It has a time of expiry, which is not over.",
        "T9": "It is not used before its time, apart from what clocks may differ.",
        "T10": "It says when it was issued, and that is not in the future.",
        "T11": "It does not live longer than its issuer's tokens may.",
        "T12": "It is meant for this service: one of its audiences is configured here, to the letter.",
        "T13": "It follows version 1 of the WLCG profile, whichever minor.",
        "T14": "Claims that are not known count for nothing.",
        "T15": "It has a subject of 1 to 255 printable ASCII characters.",
        "T16": "It has an identifier, which is logged and decides nothing.",
        "T17": "That a token was found valid is remembered for a minute at most, and while it holds.",
        "T18": "An ID token is no access token: it is meant for somebody else.",
    },
    "Keys of issuers": {
        "D1": "The keys are found by the issuer's metadata, at the places that the standards name.",
        "D2": "Where the configuration says where the keys are, or has them in a file, nothing is looked up.",
        "D3": "Metadata that names another issuer is not believed.",
        "D4": "Keys come over https from the issuer's host or a configured one, and from no private address.",
        "D5": "Redirects are not followed.",
        "D6": "Metadata and keys are limited in time, size and number.",
        "D7": "Keys are fetched anew in the background, and one that is gone counts no more.",
        "D8": "While an issuer cannot be reached its keys count on for some days, over a restart as well.",
        "D9": "An unknown key has them fetched at once, but not more than once a minute.",
        "D10": "An issuer that hangs delays the tokens of no other.",
    },
    "Scopes": {
        "S1": "The scopes are one string of words in the characters that scopes have.",
        "S2": "Each scope grants one capability on one path; they add up only if they are of one name.",
        "S3": "A storage scope without a sound path makes the whole token invalid.",
        "S4": "A scope covers its path and what is below it, component by component.",
        "S5": "Who may create below a path may also make the directories that lead there.",
        "S6": "A token without capability and without usable group may do nothing.",
        "S7": "A path is brought into one form, in which it is checked and used; `..` is refused to users.",
        "S8": "A symbolic link leads nowhere that is not allowed by itself.",
    },
    "Groups of tokens": {
        "G1": "The groups are an array of at most 128 well-formed names.",
        "G2": "Without a capability the groups decide, by the permissions of the entry.",
        "G3": "Who is in a group is not therefore in the one above it.",
        "G4": "The order of the groups is kept: the first is the primary one, and all count.",
        "G5": "A token with any capability has no groups.",
        "G6": "An issuer can give the groups of its own VO only, and of these what is configured.",
        "G7": "No group from outside ever becomes the group `root`.",
        "G8": "Tokens with groups stay inside the base paths of their issuer, too.",
        "G9": "A group is called in DPM what the configuration says, else its name without the first slash.",
    },
    "Issuers": {
        "I1": "Outside the base paths of its issuer a token opens nothing.",
        "I2": "Keys, audiences and maps of one issuer never count for another.",
        "I3": "Issuers may share VO and paths; their subjects are different users unless they are mapped.",
        "I4": "An issuer that is taken away counts no more from the next request on.",
        "I5": "A configuration of an issuer that is not sound is refused with its name and the key.",
    },
    "Commands": {
        "M1": "Each command asks for certain capabilities on its paths.",
        "M2": "No token administers anything, speaks for a server, or moves or removes a base path.",
        "M3": "Users and tokens do not say on which server or pool a file is put.",
        "M4": "What is named by a number or a replica is looked up first, and its path decides.",
        "M5": "Whether something is there is decided in the transaction that changes it.",
        "M6": "The scope `host.auth` lets configured subjects read figures of space, and nothing else.",
    },
    "Several credentials": {
        "MX1": "Of certificate and token in one request the token alone decides.",
        "MX2": "A token that is bad or not enough is never made up for by the certificate.",
        "MX3": "A server that passes on a user's token has the token's rights, not its own.",
        "MX4": "A token and a user named in a header contradict each other.",
        "MX5": "Whoever is banned by certificate is not let in with a token either.",
        "MX6": "A certificate that TLS refuses ends the connection before the token is seen.",
        "MX7": "A certificate that fails a later check fails the request, good token or not.",
        "MX8": "Each request of a connection is decided by itself.",
    },
    "Certificates": {
        "X1": "Trusted CAs are those of the directory; CAs in between may come from the client.",
        "X2": "A certificate that lists its uses must list that of a TLS client.",
        "X3": "The path from certificate to CA is built here by names and signatures; all of it is valid.",
        "X4": "The user is the subject of the certificate that the CA signed, never that of a proxy.",
        "X5": "Names are compared attribute by attribute, and written in one canonical form.",
        "X6": "A CA signs only names that its signing policy allows.",
        "X7": "A connection is judged anew when trust changes or a certificate of its path expires.",
    },
    "Proxies": {
        "P1": "Each proxy says in a critical, well-formed extension that it is one.",
        "P2": "A proxy is either full or limited; no other policy is known.",
        "P3": "There are not more proxies on top of each other than is allowed.",
        "P4": "One limited proxy limits all that follow from it.",
        "P5": "A proxy is never a server of the site.",
        "P6": "Proxies of the kinds before RFC 3820 are refused.",
    },
    "Revocation": {
        "C1": "No certificate of the path is revoked, and the CRLs that there are, or must be, are valid.",
        "C2": "CRLs are read from the directory, and a new one counts from the next look.",
        "C3": "A CRL with a critical extension that is not understood is not used.",
    },
    "VOMS": {
        "V1": "An attribute certificate that is not good refuses the request; without any there is no group.",
        "V2": "The attributes of the proxy nearest to the client count, and no others.",
        "V3": "An attribute certificate is valid now.",
        "V4": "It is made out to the certificate that the proxy comes from.",
        "V5": "It is signed by a VOMS server of its VO that the site knows.",
        "V6": "It has one set of attributes, all of its own VO and well-formed.",
        "V7": "Roles and capabilities that say NULL are dropped, and the first group is the primary one.",
        "V8": "It has the extensions that it must have and no unknown critical one, and is for this server.",
        "V9": "It is limited in number and size.",
    },
    "Servers of the site": {
        "N1": "Trusted are this head, DPM's disk servers, and front-ends and DNs of the configuration.",
        "N2": "A server is known by the whole host name that its certificate was issued for.",
        "N3": "Host names count from a certificate itself; an administrator may also come by a full proxy.",
        "N4": "Only a trusted server says in headers for whom it calls, and without contradiction.",
        "N5": "A disk server reports for itself only.",
        "N6": "A server calls the commands of its role, and without a user only some of them.",
        "N7": "To disk servers the head passes on whom it has authenticated, never headers that it was sent.",
        "N8": "Users and groups that a server names pass the same checks as those that prove themselves.",
    },
    "Names": {
        "U1": "A name that could be read in two ways is nobody's.",
        "U2": "A slash within a value is a slash, however it is written.",
        "U3": "A name goes through each of its written forms unchanged.",
        "U4": "Names of users and groups have at most 255 bytes.",
        "U5": "Without VOMS attributes the grid-mapfile gives the groups.",
    },
    "Bans": {
        "B1": "A banned user is refused everything but `dome_info`, however he comes.",
        "B2": "A token's subject is banned by its own name and by that of the user it is mapped to.",
        "B3": "A banned primary group refuses the request; another banned one does not count.",
        "B4": "The file of bans adds to DPM's own; a broken one leaves the list as it was.",
        "B5": "A ban counts from the next request on, within a minute.",
    },
    "Changes while running": {
        "R1": "What is read from files and the database is looked at anew every minute, and on a signal.",
        "R2": "What is new replaces what was there as a whole, and decisions on the old are dropped.",
        "R3": "What cannot be used changes nothing, and is told once.",
        "R4": "New connections see the new certificates at once, and old ones end within an hour.",
        "R5": "Times of expiry, failures and the age of keys are metrics.",
    },
    "The audit log": {
        "A1": "Each request and each failed handshake is one line with fixed fields.",
        "A2": "The line has the precise reason, the answer a general one.",
        "A3": "Values are quoted, escaped and cut, so that none can forge a field or a line.",
        "A4": "No token, signature, key or header is ever logged.",
        "A5": "Changes of who is trusted or banned are logged with their numbers.",
    },
    "Limits": {
        "L1": "Tokens and headers are limited in size, and scopes and groups in number.",
        "L2": "The body of a request is limited in size and depth, and read once.",
        "L3": "A client's chain is limited in number and size.",
        "L4": "Who fails too often is told to wait, before anything is checked.",
        "L5": "Connections of one source and handshakes in work are limited.",
        "L6": "No request makes the server fetch or compute without bound.",
        "L7": "Header, body and the next request must come in time.",
    },
}

RULES: Mapping[str, str] = dict(chain.from_iterable(rules.items() for rules in GROUPS.values()))


def meaning(rule: str) -> str:
    """The sentence for a number, "" for one that there is not."""
    return RULES.get(rule, "")


def reference() -> str:
    """The tables of docs/reference/auth-rules.md."""
    return "\n".join(_table(heading, rules) for heading, rules in GROUPS.items())


def _table(heading: str, rules: Mapping[str, str]) -> str:
    rows = "\n".join(f"| {number} | {sentence} |" for number, sentence in rules.items())
    return f"## {heading}\n\n| rule | |\n| --- | --- |\n{rows}\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
