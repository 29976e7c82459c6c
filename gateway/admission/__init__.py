"""From a request's head to who connects and what they want, or to a refusal. Pure.

request (bytes to fields) -> handshake (is it one?) -> identity (who?) -> admit (all of it).
"""
