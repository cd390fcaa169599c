"""Limits on money, tokens, requests and time: reserved before a step, committed after it."""
