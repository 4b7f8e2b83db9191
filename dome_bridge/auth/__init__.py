"""Who calls, and what proves it: certificates and proxies, VOMS, signed requests, bearer tokens.

Nothing here knows a command or touches the catalog; `dome_api` asks who somebody is and decides what he may.
"""
