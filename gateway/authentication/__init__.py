"""From a token to who sent it, or to a refusal (DESIGN section 7).

keyring (which key verifies what) -> token (claims, or what is wrong with it) -> authenticator (with the
keys and cut-offs of now). provider fetches keys, revocations learns cut-offs, expiries knows whose
token ends.
"""
