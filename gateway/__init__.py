"""A gateway replica: subscribes to the streams its clients need and pushes to their sockets.

An event's way in: subscriber -> stream -> hub -> frames -> connection.
A client's way in: door -> admission -> hub -> connection.
"""
