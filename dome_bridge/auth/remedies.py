"""What to do next about a refusal, by the number of the rule that decided: for the administrator.

`rules` says what a rule asks for, this where to look when somebody does not pass it. `dome-bridge auth
explain` prints it; nothing of it is ever in an answer.
"""

from __future__ import annotations

from collections.abc import Mapping

_ANOTHER = "have a new token issued; if they all are so, tell the issuer's administrators"
_FORM = "the client has built the token wrongly or cut it: fetch a new one and compare"
_AC = "have the user make a new proxy with voms-proxy-init; if it stays, compare with the VO's own"

REMEDIES: Mapping[str, str] = {
    "TLS2": "have it issued anew, with SHA-256 and an RSA key of 2048 bits or more, or an EC key",
    "TLS5": "see the text of OpenSSL; try `openssl s_client` from the client",
    "TLS6": "look whether the client speaks TLS on this port at all, and for a firewall in between",
    "TLS10": "look at the certificate of the other side, and at the CAs that it is checked with",
    "K1": "users come by TLS; if this is a server of the site, name its host in frontends of [auth]",
    "K2": "compare the key of both sides and their clocks, and look whether anything rewrites the request",
    "K3": "have the client sign with the subject of its host certificate, with one CN, the host's name",
    "K4": "set xrdhttp_secret_file in [auth] to the key that all servers share",
    "K5": "have this token revoked, and the client use https:// from now on",
    "K6": "let the client use TLS, or add its network to plain_http_networks in [auth]",
    "Y2": "httpd must set each identity header with `RequestHeader set`, or unset it",
    "Y3": "look at the subject in httpd's header; SSLOptions +LegacyDNStringFormat gives DPM's form",
    "H1": "the header is `Authorization: Bearer <token>`, one blank, without quotes and line ends",
    "H2": "the parameter is `authz=<token>` or `authz=Bearer%20<token>`",
    "H3": "have the client send its token once, in the header or in the query",
    "H5": "the client must show a certificate, or send its token",
    "H8": "have the client send the plain path of the command, without dots and encoded slashes",
    "H9": "from this machine, try `curl -sS <issuer>/.well-known/openid-configuration`",
    "T2": "compare with `issuer` in [[auth.issuer]] to the letter, the slash at the end too",
    "T3": _FORM,
    "T4": _ANOTHER,
    "T5": "if the issuer signs so on purpose, add the algorithm to algorithms of [auth]",
    "T6": "the token was not signed by this issuer's key, or was changed: fetch a new one",
    "T7": "fetch a new token; if it stays, compare the issuer's key set with the token's kid",
    "T8": "fetch a new token; if it is new, set the clocks here and at the issuer",
    "T9": "set the clocks here and at the issuer; clock_skew_s in [auth] is what they may differ",
    "T10": "set the clocks here and at the issuer; clock_skew_s in [auth] is what they may differ",
    "T11": "ask for tokens that live shorter, or set max_lifetime_s of the issuer",
    "T12": "add the audience to [auth] audience if it is a name of ours, or have the client ask for ours",
    "T13": "the issuer must follow the WLCG profile: have it configured so",
    "T15": _ANOTHER,
    "T16": _ANOTHER,
    "D4": "see jwks_hosts and allow_private_address of the issuer",
    "S1": _ANOTHER,
    "S3": "ask for scopes with an absolute path, such as storage.read:/",
    "S4": "ask for a token with a scope on this path, counted from base_path; see what it may above",
    "S6": "ask for a storage scope or a group of the VO; compare vo and allowed_groups of the issuer",
    "S7": "have the client send an absolute path without . and ..",
    "S8": "the symbolic link leads out of what the token may touch: use the path of the target",
    "G1": _ANOTHER,
    "G2": "look at owner, mode and ACL of the entry and of the directories above it",
    "G7": "no group or user from outside may be called root: correct the client or the map",
    "G8": "the path is outside of base_path of the issuer: compare both",
    "I1": "the path is outside of base_path of the issuer, or excluded: compare both",
    "M1": "what is there already needs more than the token has, see the reason",
    "M2": "this is not done with a token: use a certificate that is allowed it",
    "M3": "leave the parameter out: only the site's own servers say where a file goes",
    "M4": "look whether there is such a replica or entry, and give the path instead",
    "MX4": "a front-end sends either the user's token or the user's name: correct its configuration",
    "MX7": "see the reason: the certificate of the connection is bad, whatever the token is",
    "X1": "install the CA's certificate in ca_dir of [api.tls], or get a certificate of a CA that is there",
    "X2": "have the certificate issued anew for client authentication, by a grid CA or one of your own",
    "X3": "see the reason: renew what has expired, install the CA that is missing",
    "X6": "compare the name with the CA's namespaces or signing_policy file; update the CA package",
    "P1": "have the user make a new proxy, with a current tool",
    "P2": "have the user make a full or limited proxy; other policies grant nothing",
    "P3": "fewer delegations, or a larger max_proxy_depth in [auth]",
    "P4": "have the user come with a full proxy, or set limited_proxy in [auth]",
    "P5": "a server must show its host certificate itself, not a proxy of it",
    "P6": "have the user make an RFC 3820 proxy: voms-proxy-init -rfc",
    "C1": "if the CRL is old or missing, run fetch-crl; if the certificate is revoked, it stays out",
    "C3": "this CRL cannot be used: tell the CA, see crl_policy in [auth]",
    "V1": _AC,
    "V3": "have the user make a new proxy; if it is new, set the clocks here and at the VOMS server",
    "V4": _AC,
    "V5": "compare <vomsdir>/<vo>/<host>.lsc with the certificate of the VO's VOMS server",
    "V6": "tell the VO: its VOMS server asserts attributes of another VO, or malformed ones",
    "V7": "ask for fewer attributes when the proxy is made",
    "V8": _AC,
    "V9": "ask for fewer attributes when the proxy is made",
    "N1": "name the host in frontends, or the DN in authorize_dn of [auth]",
    "N2": "the certificate must carry the host's name as a dNSName",
    "N4": "if this is a front-end of the site, name its host in frontends of [auth]; nobody else may do it",
    "N5": "a disk server reports for itself: if both are one, name both in same_server of [auth]",
    "N6": "if it must be allowed, see the role: frontends, direct_users and authorize_dn of [auth]",
    "N8": "correct the name that the front-end sends",
    "U1": "this name can be read as another: have a certificate with a plain one issued",
    "U4": "correct the name, or its number in DPM's user table",
    "B1": "he is banned in DPM's tables: dmlite-shell or the VO can tell why, and lift it",
    "B2": "he is banned by the name of his token's subject: see the ban file and DPM's tables",
    "B3": "his primary group is banned: see DPM's group table and the ban file",
    "B4": "see the line of the ban file, with its reason",
    "L1": "fewer scopes or groups, a smaller token",
    "L2": "the request's body is too large",
    "L3": "fewer certificates in the chain",
    "L4": "see the audit log for what comes from that address; it passes by itself",
    "L5": "see who holds the connections; connections_per_source and handshakes in [auth] are the limits",
    "L7": "look at the client and the network: the request did not arrive in time",
}


def remedy(rule: str) -> str:
    """The sentence for a rule, "" for one that refuses nobody."""
    return REMEDIES.get(rule, "")
