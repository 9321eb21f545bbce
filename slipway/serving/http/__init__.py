"""Requests and answers: the protocol over HTTP, within limits, logged and counted."""
