"""The hand-over to dCache: its configuration, made from what DPM's databases and our settings say.

`facts` reads a site, `files` turns it into dCache's files, `tree` writes and compares them, `logins`
reads them back and rehearses every login. All between reading and writing is pure.
"""
