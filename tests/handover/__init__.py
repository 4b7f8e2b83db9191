"""Tests of the hand-over's configuration files and logins."""
