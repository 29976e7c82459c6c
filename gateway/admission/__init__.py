"""From a request's head to who connects and what they want, or to a refusal. Pure.

request (bytes to fields) -> handshake (is it one?) -> locality (from where?) -> admit (all of it).
"""
